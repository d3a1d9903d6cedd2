// NVML of the software GPU: libnvidia-ml.so.1 beside its libcuda.so.1. What CUDA knows - how many devices, names,
// UUIDs, memory - it asks that library for, so that the two never differ; the rest are the constant figures of a card
// at rest. What is not here the server's monitor takes for NVML_ERROR_NOT_SUPPORTED.
#include <cuda.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "nvml/nvml_api.h"

#define BF_NVML extern "C" __attribute__((visibility("default"), used))

struct bf::nvml::nvmlDevice_st {
  int ordinal = 0;
  std::string name, uuid;
  unsigned bus = 0;
  int major = 0, minor = 0;
  unsigned long long total = 0;
};

namespace bf::nvml {
namespace {

constexpr unsigned kTemperature = 30, kSlowdown = 85, kShutdown = 90;            // degrees Celsius
constexpr unsigned kPower = 50'000, kPowerLimit = 300'000, kPowerMin = 100'000;  // milliwatts
constexpr unsigned kClock = 1000, kMemoryClock = 2000;                           // MHz
constexpr int kFieldsPerCall =
    100;  // further ones are left as they were, with success, as driver 580 does from some number on
constexpr const char* kDriver = "580.0";

struct Cuda {
  decltype(&::cuInit) init;
  decltype(&::cuDeviceGetCount) count;
  decltype(&::cuDeviceGetName) name;
  decltype(&::cuDeviceGetUuid_v2) uuid;
  decltype(&::cuDeviceGetAttribute) attribute;
  decltype(&::cuDeviceTotalMem_v2) total;
  decltype(&::cuDriverGetVersion) version;
  decltype(&::cuDevicePrimaryCtxGetState) state;
  decltype(&::cuDevicePrimaryCtxRetain) retain;
  decltype(&::cuDevicePrimaryCtxRelease_v2) release;
  decltype(&::cuCtxPushCurrent_v2) push;
  decltype(&::cuCtxPopCurrent_v2) pop;
  decltype(&::cuMemGetInfo_v2) memory;
};

struct State {
  std::mutex mutex;
  unsigned initialised = 0;
  Cuda cuda{};
  std::vector<nvmlDevice_st> devices;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

State& state() {
  static auto* state = new State;
  return *state;
}

// The library in our own folder.
void* load_cuda() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&load_cuda), &info) == 0 || info.dli_fname == nullptr) return nullptr;
  std::string path = info.dli_fname;
  return dlopen((path.substr(0, path.rfind('/') + 1) + "libcuda.so.1").c_str(), RTLD_NOW | RTLD_LOCAL);
}

bool load(State& s) {
  void* library = load_cuda();
  if (library == nullptr) return false;
  bool complete = true;
  const auto get = [&](auto& pointer, const char* name) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(dlsym(library, name));
    complete &= pointer != nullptr;
  };
  get(s.cuda.init, "cuInit");
  get(s.cuda.count, "cuDeviceGetCount");
  get(s.cuda.name, "cuDeviceGetName");
  get(s.cuda.uuid, "cuDeviceGetUuid_v2");
  get(s.cuda.attribute, "cuDeviceGetAttribute");
  get(s.cuda.total, "cuDeviceTotalMem_v2");
  get(s.cuda.version, "cuDriverGetVersion");
  get(s.cuda.state, "cuDevicePrimaryCtxGetState");
  get(s.cuda.retain, "cuDevicePrimaryCtxRetain");
  get(s.cuda.release, "cuDevicePrimaryCtxRelease_v2");
  get(s.cuda.push, "cuCtxPushCurrent_v2");
  get(s.cuda.pop, "cuCtxPopCurrent_v2");
  get(s.cuda.memory, "cuMemGetInfo_v2");
  return complete && s.cuda.init(0) == CUDA_SUCCESS;
}

void describe(State& s, int ordinal) {
  nvmlDevice_st device;
  device.ordinal = ordinal;
  char text[256] = "";
  s.cuda.name(text, sizeof text, ordinal);
  device.name = text;
  CUuuid uuid{};
  s.cuda.uuid(&uuid, ordinal);
  device.uuid = "GPU-";
  for (int i = 0; i < 16; i++) {
    snprintf(text, sizeof text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uint8_t(uuid.bytes[i]));
    device.uuid += text;
  }
  int bus = 0;
  s.cuda.attribute(&bus, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, ordinal);
  device.bus = unsigned(bus);
  s.cuda.attribute(&device.major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ordinal);
  s.cuda.attribute(&device.minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, ordinal);
  size_t bytes = 0;
  s.cuda.total(&bytes, ordinal);
  device.total = bytes;
  s.devices.push_back(std::move(device));
}

bool ready() { return state().initialised > 0; }

nvmlReturn_t check(nvmlDevice_t device) {
  if (!ready()) return NVML_ERROR_UNINITIALIZED;
  for (auto& known : state().devices)
    if (&known == device) return NVML_SUCCESS;
  return NVML_ERROR_INVALID_ARGUMENT;
}

// Answers with one or more numbers.
template <typename... T>
nvmlReturn_t answer(nvmlDevice_t device, std::pair<T*, T>... values) {
  if (nvmlReturn_t error = check(device); error != NVML_SUCCESS) return error;
  if (((values.first == nullptr) || ...)) return NVML_ERROR_INVALID_ARGUMENT;
  ((*values.first = values.second), ...);
  return NVML_SUCCESS;
}

nvmlReturn_t text(const std::string& value, char* buffer, unsigned length) {
  if (!ready()) return NVML_ERROR_UNINITIALIZED;
  if (buffer == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (length <= value.size()) return NVML_ERROR_INSUFFICIENT_SIZE;
  memcpy(buffer, value.c_str(), value.size() + 1);
  return NVML_SUCCESS;
}

nvmlReturn_t device_text(nvmlDevice_t device, const std::string& value, char* buffer, unsigned length) {
  const nvmlReturn_t error = check(device);
  return error != NVML_SUCCESS ? error : text(value, buffer, length);
}

nvmlReturn_t list(nvmlDevice_t device, unsigned value, unsigned* count, unsigned* values) {
  if (nvmlReturn_t error = check(device); error != NVML_SUCCESS) return error;
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned room = *count;
  *count = 1;
  if (room < 1) return NVML_ERROR_INSUFFICIENT_SIZE;
  values[0] = value;
  return NVML_SUCCESS;
}

std::optional<unsigned> power_of(unsigned field) {
  switch (field) {
    case NVML_FI_DEV_POWER_AVERAGE:
    case NVML_FI_DEV_POWER_INSTANT:
      return kPower;
    case NVML_FI_DEV_POWER_MIN_LIMIT:
      return kPowerMin;
    case NVML_FI_DEV_POWER_MAX_LIMIT:
    case NVML_FI_DEV_POWER_DEFAULT_LIMIT:
    case NVML_FI_DEV_POWER_CURRENT_LIMIT:
    case NVML_FI_DEV_POWER_REQUESTED_LIMIT:
      return kPowerLimit;
    default:
      return std::nullopt;
  }
}

unsigned clock_of(nvmlClockType_t type) { return type == NVML_CLOCK_MEM ? kMemoryClock : kClock; }

// What this process has allocated itself; the monitor of a server has nothing, and the lease's books count instead.
unsigned long long used_bytes(const nvmlDevice_st& device) {
  Cuda& cuda = state().cuda;
  unsigned flags = 0;
  int active = 0;
  CUcontext context = nullptr;
  if (cuda.state(device.ordinal, &flags, &active) != CUDA_SUCCESS || !active ||
      cuda.retain(&context, device.ordinal) != CUDA_SUCCESS)
    return 0;
  size_t free = 0, total = 0;
  cuda.push(context);
  const CUresult result = cuda.memory(&free, &total);
  cuda.pop(&context);
  cuda.release(device.ordinal);
  return result == CUDA_SUCCESS ? total - free : 0;
}

}  // namespace

// --- the library
// -------------------------------------------------------------------------------------------------------

BF_NVML nvmlReturn_t nvmlInit_v2() noexcept {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (s.devices.empty()) {
    if (!load(s)) return NVML_ERROR_DRIVER_NOT_LOADED;
    int count = 0;
    s.cuda.count(&count);
    for (int i = 0; i < count; i++) describe(s, i);
  }
  s.initialised++;
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlInit() noexcept { return nvmlInit_v2(); }
BF_NVML nvmlReturn_t nvmlInitWithFlags(unsigned int) noexcept { return nvmlInit_v2(); }
BF_NVML nvmlReturn_t nvmlShutdown() noexcept {
  std::lock_guard lock(state().mutex);
  if (!ready()) return NVML_ERROR_UNINITIALIZED;
  state().initialised--;
  return NVML_SUCCESS;
}
BF_NVML const char* nvmlErrorString(nvmlReturn_t result) noexcept {
  return result == NVML_SUCCESS ? "Success" : "Error of the software NVML";
}
BF_NVML nvmlReturn_t nvmlSystemGetDriverVersion(char* version, unsigned int length) noexcept {
  return text(kDriver, version, length);
}
BF_NVML nvmlReturn_t nvmlSystemGetNVMLVersion(char* version, unsigned int length) noexcept {
  return text(std::string("13.") + kDriver, version, length);
}
BF_NVML nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int* cudaDriverVersion) noexcept {
  if (!ready()) return NVML_ERROR_UNINITIALIZED;
  if (cudaDriverVersion == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  return state().cuda.version(cudaDriverVersion) == CUDA_SUCCESS ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}
BF_NVML nvmlReturn_t nvmlSystemGetCudaDriverVersion(int* cudaDriverVersion) noexcept {
  return nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion);
}
BF_NVML nvmlReturn_t nvmlUnitGetCount(unsigned int* unitCount) noexcept {
  if (!ready()) return NVML_ERROR_UNINITIALIZED;
  *unitCount = 0;
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlGetExcludedDeviceCount(unsigned int* deviceCount) noexcept {
  return nvmlUnitGetCount(deviceCount);
}

// --- devices
// -----------------------------------------------------------------------------------------------------------

BF_NVML nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int* deviceCount) noexcept {
  if (!ready()) return NVML_ERROR_UNINITIALIZED;
  if (deviceCount == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *deviceCount = unsigned(state().devices.size());
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t* device) noexcept {
  if (!ready()) return NVML_ERROR_UNINITIALIZED;
  if (device == nullptr || index >= state().devices.size()) return NVML_ERROR_INVALID_ARGUMENT;
  *device = &state().devices[index];
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* device) noexcept {
  if (!ready()) return NVML_ERROR_UNINITIALIZED;
  if (uuid == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (auto& known : state().devices)
    if (known.uuid == uuid) return *device = &known, NVML_SUCCESS;
  return NVML_ERROR_NOT_FOUND;
}
BF_NVML nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int* index) noexcept {
  return answer<unsigned>(device, {index, unsigned(device - state().devices.data())});
}
BF_NVML nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int* minorNumber) noexcept {
  return nvmlDeviceGetIndex(device, minorNumber);
}
BF_NVML nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char* name, unsigned int length) noexcept {
  return device_text(device, check(device) == NVML_SUCCESS ? device->name : "", name, length);
}
BF_NVML nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char* uuid, unsigned int length) noexcept {
  return device_text(device, check(device) == NVML_SUCCESS ? device->uuid : "", uuid, length);
}
BF_NVML nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char* version, unsigned int length) noexcept {
  return device_text(device, "software", version, length);
}
BF_NVML nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t* type) noexcept {
  return answer<unsigned>(device, {type, NVML_BRAND_UNKNOWN});
}
BF_NVML nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t* arch) noexcept {
  return answer<unsigned>(device, {arch, 9});  // of compute capability 9.0
}
BF_NVML nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int* major, int* minor) noexcept {
  if (nvmlReturn_t error = check(device); error != NVML_SUCCESS) return error;
  return answer<int, int>(device, {major, device->major}, {minor, device->minor});
}
BF_NVML nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t device, unsigned int* boardId) noexcept {
  return answer<unsigned>(device, {boardId, check(device) == NVML_SUCCESS ? device->bus << 8 : 0});
}
BF_NVML nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned int* multiGpuBool) noexcept {
  return answer<unsigned>(device, {multiGpuBool, 0});
}
BF_NVML nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t* pci) noexcept {
  if (nvmlReturn_t error = check(device); error != NVML_SUCCESS) return error;
  if (pci == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *pci = {};
  pci->bus = device->bus;
  pci->pciDeviceId = 0xbacf0000;
  snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", device->bus);
  snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", device->bus);
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t* pci) noexcept {
  if (pci != nullptr && pci->version != nvmlPciInfoExt_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  nvmlPciInfo_t info;
  if (nvmlReturn_t error = nvmlDeviceGetPciInfo_v3(device, pci != nullptr ? &info : nullptr); error != NVML_SUCCESS)
    return error;
  *pci = {nvmlPciInfoExt_v1, info.domain, info.bus, info.device, info.pciDeviceId, info.pciSubSystemId, 3, 2, {}};
  memcpy(pci->busId, info.busId, sizeof pci->busId);
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlDeviceGetBusType(nvmlDevice_t device, nvmlBusType_t* type) noexcept {
  return answer<unsigned>(device, {type, 0});
}
BF_NVML nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t* mode) noexcept {
  return answer<unsigned>(device, {mode, NVML_FEATURE_ENABLED});
}
BF_NVML nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, nvmlEnableState_t* display) noexcept {
  return answer<unsigned>(device, {display, NVML_FEATURE_DISABLED});
}
BF_NVML nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, nvmlEnableState_t* isActive) noexcept {
  return answer<unsigned>(device, {isActive, NVML_FEATURE_DISABLED});
}
BF_NVML nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t* mode) noexcept {
  return answer<unsigned>(device, {mode, NVML_COMPUTEMODE_DEFAULT});
}
BF_NVML nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int* currentMode,
                                          unsigned int* pendingMode) noexcept {
  return answer<unsigned, unsigned>(device, {currentMode, 0}, {pendingMode, 0});
}
BF_NVML nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int* count) noexcept {
  return answer<unsigned>(device, {count, 0});
}
BF_NVML nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t device, nvmlGpuVirtualizationMode_t* mode) noexcept {
  return answer<unsigned>(device, {mode, NVML_GPU_VIRTUALIZATION_MODE_NONE});
}
BF_NVML nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device1, nvmlDevice_t device2,
                                                         nvmlGpuTopologyLevel_t* pathInfo) noexcept {
  if (check(device2) != NVML_SUCCESS) return NVML_ERROR_INVALID_ARGUMENT;
  if (device1 == device2) return NVML_ERROR_NOT_SUPPORTED;
  return answer<unsigned>(device1, {pathInfo, NVML_TOPOLOGY_SYSTEM});
}
BF_NVML nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device1, nvmlDevice_t device2, nvmlGpuP2PCapsIndex_t,
                                            nvmlGpuP2PStatus_t* p2pStatus) noexcept {
  if (check(device2) != NVML_SUCCESS) return NVML_ERROR_INVALID_ARGUMENT;
  return answer<unsigned>(device1, {p2pStatus, NVML_P2P_STATUS_GPU_NOT_SUPPORTED});
}
BF_NVML nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t device1, nvmlDevice_t device2, int* onSameBoard) noexcept {
  return answer<int>(device1, {onSameBoard, device1 == device2});
}

// --- memory
// ------------------------------------------------------------------------------------------------------------

BF_NVML nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) noexcept {
  if (nvmlReturn_t error = check(device); error != NVML_SUCCESS) return error;
  if (memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned long long used = used_bytes(*device);
  *memory = {device->total, device->total - used, used};
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t* memory) noexcept {
  if (memory != nullptr && memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  nvmlMemory_t info;
  if (nvmlReturn_t error = nvmlDeviceGetMemoryInfo(device, memory != nullptr ? &info : nullptr); error != NVML_SUCCESS)
    return error;
  *memory = {nvmlMemory_v2, info.total, 0, info.free, info.used};
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t* bar1Memory) noexcept {
  nvmlMemory_t info;
  if (nvmlReturn_t error = nvmlDeviceGetMemoryInfo(device, bar1Memory != nullptr ? &info : nullptr);
      error != NVML_SUCCESS)
    return error;
  *bar1Memory = {info.total, info.free, info.used};
  return NVML_SUCCESS;
}
BF_NVML nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t* current,
                                          nvmlEnableState_t* pending) noexcept {
  return answer<unsigned, unsigned>(device, {current, NVML_FEATURE_DISABLED}, {pending, NVML_FEATURE_DISABLED});
}

// --- what changes on a real card
// ---------------------------------------------------------------------------------------

BF_NVML nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor,
                                              unsigned int* temp) noexcept {
  if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
  return answer<unsigned>(device, {temp, kTemperature});
}
BF_NVML nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t* temperature) noexcept {
  if (temperature == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (temperature->version != nvmlTemperature_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  return answer<int>(device, {&temperature->temperature, int(kTemperature)});
}
BF_NVML nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, nvmlTemperatureThresholds_t type,
                                                       unsigned int* temp) noexcept {
  if (type > NVML_TEMPERATURE_THRESHOLD_SLOWDOWN) return NVML_ERROR_NOT_SUPPORTED;
  return answer<unsigned>(device, {temp, type == NVML_TEMPERATURE_THRESHOLD_SHUTDOWN ? kShutdown : kSlowdown});
}
BF_NVML nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int* power) noexcept {
  return answer<unsigned>(device, {power, kPower});
}
BF_NVML nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long* energy) noexcept {
  const auto lived = std::chrono::steady_clock::now() - state().started;
  const auto seconds = (unsigned long long)std::chrono::duration_cast<std::chrono::seconds>(lived).count();
  return answer<unsigned long long>(device, {energy, seconds * kPower});
}
BF_NVML nvmlReturn_t nvmlDeviceGetPowerManagementMode(nvmlDevice_t device, nvmlEnableState_t* mode) noexcept {
  return answer<unsigned>(device, {mode, NVML_FEATURE_ENABLED});
}
BF_NVML nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int* limit) noexcept {
  return answer<unsigned>(device, {limit, kPowerLimit});
}
BF_NVML nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int* limit) noexcept {
  return answer<unsigned>(device, {limit, kPowerLimit});
}
BF_NVML nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned int* limit) noexcept {
  return answer<unsigned>(device, {limit, kPowerLimit});
}
BF_NVML nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int* minLimit,
                                                                  unsigned int* maxLimit) noexcept {
  return answer<unsigned, unsigned>(device, {minLimit, kPowerMin}, {maxLimit, kPowerLimit});
}
BF_NVML nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t* utilization) noexcept {
  if (utilization == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  return answer<unsigned, unsigned>(device, {&utilization->gpu, 0}, {&utilization->memory, 0});
}
BF_NVML nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t* pState) noexcept {
  return answer<unsigned>(device, {pState, NVML_PSTATE_0});
}
BF_NVML nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long* reasons) noexcept {
  return answer<unsigned long long>(device, {reasons, 1});  // idle
}
BF_NVML nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                               unsigned long long* reasons) noexcept {
  return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}
BF_NVML nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t device,
                                                                 unsigned long long* reasons) noexcept {
  return answer<unsigned long long>(device, {reasons, 1});
}
BF_NVML nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t device,
                                                              unsigned long long* reasons) noexcept {
  return nvmlDeviceGetSupportedClocksThrottleReasons(device, reasons);
}
BF_NVML nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long* eventTypes) noexcept {
  return answer<unsigned long long>(device, {eventTypes, 0xff9f});  // an H200's
}
BF_NVML nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int* clock) noexcept {
  if (type > NVML_CLOCK_VIDEO) return NVML_ERROR_INVALID_ARGUMENT;
  return answer<unsigned>(device, {clock, clock_of(type)});
}
BF_NVML nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                               unsigned int* clock) noexcept {
  return nvmlDeviceGetClockInfo(device, type, clock);
}
BF_NVML nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned int* count,
                                                        unsigned int* clocksMHz) noexcept {
  return list(device, kMemoryClock, count, clocksMHz);
}
BF_NVML nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, unsigned int memoryClockMHz,
                                                          unsigned int* count, unsigned int* clocksMHz) noexcept {
  if (memoryClockMHz != kMemoryClock) return NVML_ERROR_NOT_FOUND;
  return list(device, kClock, count, clocksMHz);
}
BF_NVML nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int valuesCount, nvmlFieldValue_t* values) noexcept {
  if (nvmlReturn_t error = check(device); error != NVML_SUCCESS) return error;
  if (valuesCount < 1 || values == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (int i = 0; i < std::min(valuesCount, kFieldsPerCall); i++) {
    nvmlFieldValue_t& field = values[i];
    const auto power = field.scopeId == 0 ? power_of(field.fieldId) : std::nullopt;
    field.nvmlReturn = power ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    field.valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    field.value.ullVal = power.value_or(0);
  }
  return NVML_SUCCESS;
}

}  // namespace bf::nvml
