// Initialisation, and which devices there are: those of the lease, in the order in which CUDA shows them.
#include <cstdio>
#include <cstring>

#include "client/nvml/shim.h"
#include "nvml/handlers.h"

namespace bf::nvml {
namespace {

// The device for which `matches(reading)` holds.
template <typename Matches>
nvmlReturn_t find_device(nvmlDevice_t* device, Matches matches) {
  LeaseView* lease = view();
  if (lease == nullptr) return NVML_ERROR_UNINITIALIZED;
  for (size_t i = 0; i < lease->devices(); i++) {
    DevicePointer reading;
    if (nvmlReturn_t error = read_device(handle_of(i), LeaseView::Want::kFacts, reading); error != NVML_SUCCESS)
      return error;
    if (!matches(*reading)) continue;
    *device = handle_of(i);
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_FOUND;
}

struct BusId {
  unsigned domain = 0, bus = 0, device = 0;
  bool operator==(const BusId&) const = default;
};

std::optional<BusId> parse_bus_id(const char* text) {
  BusId id;
  if (sscanf(text, "%x:%x:%x", &id.domain, &id.bus, &id.device) == 3) return id;
  id.domain = 0;
  if (sscanf(text, "%x:%x", &id.bus, &id.device) == 2) return id;
  return std::nullopt;
}

}  // namespace

nvmlReturn_t handle_nvmlInit_v2() { return initialise(); }
nvmlReturn_t handle_nvmlInitWithFlags(unsigned int) { return initialise(); }
nvmlReturn_t handle_nvmlShutdown() { return shut_down(); }

// The words of the vendor's library, as its documentation and pynvml print them.
const char* handle_nvmlErrorString(nvmlReturn_t result) {
  switch (result) {
    case NVML_SUCCESS:
      return "Success";
    case NVML_ERROR_UNINITIALIZED:
      return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
      return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
      return "Not Supported";
    case NVML_ERROR_NO_PERMISSION:
      return "Insufficient Permissions";
    case NVML_ERROR_ALREADY_INITIALIZED:
      return "Already Initialized";
    case NVML_ERROR_NOT_FOUND:
      return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
      return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER:
      return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED:
      return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT:
      return "Timeout";
    case NVML_ERROR_IRQ_ISSUE:
      return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND:
      return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND:
      return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM:
      return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST:
      return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED:
      return "GPU requires restart";
    case NVML_ERROR_OPERATING_SYSTEM:
      return "The operating system has blocked the request.";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH:
      return "RM has detected an NVML/RM version mismatch.";
    case NVML_ERROR_IN_USE:
      return "In use by another client";
    case NVML_ERROR_MEMORY:
      return "Insufficient Memory";
    case NVML_ERROR_NO_DATA:
      return "No data";
    case NVML_ERROR_INSUFFICIENT_RESOURCES:
      return "Insufficient Resources";
    case NVML_ERROR_FREQ_NOT_SUPPORTED:
      return "Frequency Not Supported";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
      return "Argument version mismatch";
    case NVML_ERROR_DEPRECATED:
      return "Requested functionality has been deprecated";
    case NVML_ERROR_NOT_READY:
      return "The system is not ready for the request";
    case NVML_ERROR_GPU_NOT_FOUND:
      return "No GPUs were found";
    default:
      return "Unknown Error";
  }
}

nvmlReturn_t handle_nvmlDeviceGetCount_v2(unsigned int* deviceCount) {
  LeaseView* lease = view();
  if (lease == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (deviceCount == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *deviceCount = unsigned(lease->devices());
  return NVML_SUCCESS;
}

nvmlReturn_t handle_nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t* device) {
  LeaseView* lease = view();
  if (lease == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (device == nullptr || index >= lease->devices()) return NVML_ERROR_INVALID_ARGUMENT;
  *device = handle_of(index);
  return NVML_SUCCESS;
}

nvmlReturn_t handle_nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* device) {
  if (view() != nullptr && (uuid == nullptr || device == nullptr)) return NVML_ERROR_INVALID_ARGUMENT;
  return find_device(device, [&](auto& reading) { return reading.books.uuid == uuid; });
}

nvmlReturn_t handle_nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t* uuid, nvmlDevice_t* device) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (uuid == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (uuid->version != nvmlUUID_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  if (uuid->type == NVML_UUID_TYPE_ASCII) {
    const std::string text(uuid->value.str, strnlen(uuid->value.str, sizeof uuid->value.str));
    return find_device(device, [&](auto& reading) { return reading.books.uuid == text; });
  }
  if (uuid->type != NVML_UUID_TYPE_BINARY) return NVML_ERROR_INVALID_ARGUMENT;
  std::string text = "GPU-";
  for (int i = 0; i < 16; i++) {
    char byte[4];
    snprintf(byte, sizeof byte, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid->value.bytes[i]);
    text += byte;
  }
  return find_device(device, [&](auto& reading) { return reading.books.uuid == text; });
}

nvmlReturn_t handle_nvmlDeviceGetHandleBySerial(const char* serial, nvmlDevice_t* device) {
  if (view() != nullptr && (serial == nullptr || device == nullptr)) return NVML_ERROR_INVALID_ARGUMENT;
  return find_device(device, [&](auto& reading) { return reading.answers->text("nvmlDeviceGetSerial") == serial; });
}

nvmlReturn_t handle_nvmlDeviceGetHandleByPciBusId_v2(const char* pciBusId, nvmlDevice_t* device) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (pciBusId == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const auto wanted = parse_bus_id(pciBusId);
  if (!wanted) return NVML_ERROR_INVALID_ARGUMENT;
  return find_device(device, [&](auto& reading) { return parse_bus_id(reading.books.pci_bus_id.c_str()) == wanted; });
}

nvmlReturn_t handle_nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int* index) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  const auto found = index_of(device);
  if (!found || index == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *index = unsigned(*found);
  return NVML_SUCCESS;
}

nvmlReturn_t handle_nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int* isMigDevice) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (!index_of(device) || isMigDevice == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *isMigDevice = 0;
  return NVML_SUCCESS;
}

// The devices of the lease that are as near as `level` says.
nvmlReturn_t handle_nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, nvmlGpuTopologyLevel_t level,
                                                     unsigned int* count, nvmlDevice_t* deviceArray) {
  LeaseView* lease = view();
  if (lease == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (!index_of(device) || count == nullptr || (*count > 0 && deviceArray == nullptr))
    return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned room = *count;
  unsigned found = 0;
  for (size_t i = 0; i < lease->devices(); i++) {
    nvmlGpuTopologyLevel_t common = 0;
    if (handle_of(i) == device || nvmlDeviceGetTopologyCommonAncestor(device, handle_of(i), &common) != NVML_SUCCESS ||
        common != level)
      continue;
    if (found < room) deviceArray[found] = handle_of(i);
    found++;
  }
  *count = room == 0 ? found : std::min(found, room);
  return NVML_SUCCESS;
}

// Performance counters would have to be read beside the program's kernels, in its worker.
nvmlReturn_t handle_nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t* gpmSupport) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (!index_of(device) || gpmSupport == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  gpmSupport->isSupportedDevice = 0;
  return NVML_SUCCESS;
}

}  // namespace bf::nvml
