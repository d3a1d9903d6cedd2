#include "server/worker/nvml_library.h"

#include <dlfcn.h>
#include <stdlib.h>

#include "base/log.h"
#include "server/worker/driver_library.h"

namespace bf::server {

Result<NvmlLibrary> NvmlLibrary::load() {
  const char* wanted = getenv("BF_NVML");
  const std::string name = wanted && *wanted ? wanted : "libnvidia-ml.so.1";
  NvmlLibrary library;
  library.library_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library.library_) return Status(StatusCode::kUnavailable, fmt::format("no NVML: {}", dlerror()));
  const auto get = [&](auto& pointer, const char* symbol) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(library.function(symbol));
    return pointer != nullptr;
  };
  decltype(&nvml::nvmlInit_v2) init = nullptr;
  bool complete = get(init, "nvmlInit_v2");
  complete &= get(library.by_uuid, "nvmlDeviceGetHandleByUUID");
  complete &= get(library.memory_info, "nvmlDeviceGetMemoryInfo");
  complete &= get(library.field_values, "nvmlDeviceGetFieldValues");
  complete &= get(library.count, "nvmlDeviceGetCount_v2");
  complete &= get(library.by_index, "nvmlDeviceGetHandleByIndex_v2");
  complete &= get(library.uuid, "nvmlDeviceGetUUID");
  if (!complete) return Status(StatusCode::kUnavailable, fmt::format("{} is not a complete NVML", name));
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(init), &info) && info.dli_fname && is_shim(info.dli_fname))
    return Status(StatusCode::kInvalid, fmt::format("{} is Backfield's own client library", info.dli_fname));
  if (const int result = init(); result != nvml::NVML_SUCCESS)
    return Status(StatusCode::kUnavailable, fmt::format("{} does not start: NVML error {}", name, result));
  return library;
}

void* NvmlLibrary::function(const char* name) const { return dlsym(library_, name); }

std::optional<uint64_t> NvmlLibrary::free_bytes(const std::string& uuid_text) const {
  nvml::nvmlDevice_t device = nullptr;
  nvml::nvmlMemory_t info{};
  if (by_uuid(uuid_text.c_str(), &device) != nvml::NVML_SUCCESS || memory_info(device, &info) != nvml::NVML_SUCCESS)
    return std::nullopt;
  return info.free;
}

}  // namespace bf::server
