// Event sets. Events of the card (XID errors, clock changes ...) are its administrator's and every tenant's; a lease
// gets none, so that waiting always ends with the time.
#include <cerrno>
#include <ctime>
#include <mutex>
#include <unordered_set>

#include "client/nvml/shim.h"
#include "nvml/handlers.h"

struct bf::nvml::nvmlEventSet_st {
  char nothing[16];
};

namespace bf::nvml {
namespace {

struct Sets {
  std::mutex mutex;
  std::unordered_set<nvmlEventSet_t> alive;
};

Sets& sets() {
  static auto* sets = new Sets;
  return *sets;
}

bool is_alive(nvmlEventSet_t set) {
  std::lock_guard lock(sets().mutex);
  return sets().alive.count(set) > 0;
}

}  // namespace

nvmlReturn_t handle_nvmlEventSetCreate(nvmlEventSet_t* set) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (set == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  auto* fresh = new nvmlEventSet_st{};
  std::lock_guard lock(sets().mutex);
  sets().alive.insert(fresh);
  *set = fresh;
  return NVML_SUCCESS;
}

nvmlReturn_t handle_nvmlEventSetFree(nvmlEventSet_t set) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  std::lock_guard lock(sets().mutex);
  if (sets().alive.erase(set) == 0) return NVML_ERROR_INVALID_ARGUMENT;
  delete set;
  return NVML_SUCCESS;
}

nvmlReturn_t handle_nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long eventTypes, nvmlEventSet_t set) {
  DevicePointer reading;
  if (nvmlReturn_t error = read_device(device, LeaseView::Want::kFacts, reading); error != NVML_SUCCESS) return error;
  if (!is_alive(set)) return NVML_ERROR_INVALID_ARGUMENT;
  const auto supported = reading->answers->number<unsigned long long>("nvmlDeviceGetSupportedEventTypes");
  return !supported || (eventTypes & ~*supported) == 0 ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t handle_nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t* data, unsigned int timeoutms) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (data == nullptr || !is_alive(set)) return NVML_ERROR_INVALID_ARGUMENT;
  timespec left{time_t(timeoutms / 1000), long(timeoutms % 1000) * 1'000'000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
  return NVML_ERROR_TIMEOUT;
}

}  // namespace bf::nvml
