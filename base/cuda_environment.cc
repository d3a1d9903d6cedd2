#include "base/cuda_environment.h"

#include <strings.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <string_view>

namespace bf {
namespace {

bool is(const char* text, const char* word) { return text && strcasecmp(text, word) == 0; }

// An index as strtol reads it, cut to 32 bits; what stands behind the number does not count.
int index_of(const std::string& entry) {
  char* end = nullptr;
  const long value = std::strtol(entry.c_str(), &end, 0);
  return end == entry.c_str() ? -1 : int(value);
}

// The one device whose UUID begins like the entry; letters count alike in both cases, and what is longer than a UUID is
// cut. Not "GPU-" alone.
int uuid_of(std::string_view entry, std::span<const std::string> uuids) {
  int found = -1;
  for (size_t i = 0; i < uuids.size(); ++i) {
    const std::string_view part = entry.substr(0, uuids[i].size());
    if (part.size() <= 4 || strncasecmp(part.data(), uuids[i].data(), part.size()) != 0) continue;
    if (found >= 0) return -1;  // more than one
    found = int(i);
  }
  return found;
}

}  // namespace

CudaEnvironment CudaEnvironment::read() {
  CudaEnvironment environment;
  if (const char* text = std::getenv("CUDA_VISIBLE_DEVICES")) environment.visible_devices = text;
  environment.pci_order = is(std::getenv("CUDA_DEVICE_ORDER"), "PCI_BUS_ID");
  const char* blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
  environment.launch_blocking = blocking && std::atoi(blocking) != 0;
  environment.eager_loading = is(std::getenv("CUDA_MODULE_LOADING"), "EAGER");
  return environment;
}

VisibleDevices choose_devices(const std::optional<std::string>& text, std::span<const std::string> uuids) {
  VisibleDevices chosen;
  if (!text) {
    chosen.devices.resize(uuids.size());
    std::iota(chosen.devices.begin(), chosen.devices.end(), size_t{0});
    return chosen;
  }
  std::optional<bool> by_uuid;  // the first entry decides
  for (size_t at = 0; at <= text->size();) {
    const size_t end = std::min(text->find(',', at), text->size());
    std::string entry = text->substr(at, end - at);
    at = end + 1;
    entry.erase(0, std::min(entry.find_first_not_of(" \t"), entry.size()));
    entry.erase(entry.find_last_not_of(" \t") + 1);
    const bool named = strncasecmp(entry.c_str(), "GPU-", 4) == 0;
    if (by_uuid.value_or(named) != named) break;
    by_uuid = named;
    const int index = named ? uuid_of(entry, uuids) : index_of(entry);
    if (index < 0 || size_t(index) >= uuids.size()) break;
    if (std::ranges::find(chosen.devices, size_t(index)) != chosen.devices.end()) return {{}, true};
    chosen.devices.push_back(size_t(index));
  }
  return chosen;
}

}  // namespace bf
