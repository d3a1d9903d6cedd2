#include "softgpu/driver/device.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/cuda_environment.h"
#include "base/limits.h"
#include "base/log.h"
#include "softgpu/driver/array.h"
#include "softgpu/driver/context.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/pool.h"

namespace bf::softgpu {
namespace {

std::vector<Device*>& devices() {
  static std::vector<Device*>* all = new std::vector<Device*>;
  return *all;
}
Faults g_faults;
bool g_named_twice = false;

uint64_t environment_number(const char* name, uint64_t fallback, uint64_t low, uint64_t high) {
  const char* text = getenv(name);
  if (!text || !*text) return fallback;
  char* end;
  uint64_t value = strtoull(text, &end, 10);
  if (*end || value < low || value > high) {
    BF_ERROR("{}={} is ignored: it must be a number from {} to {}", name, text, low, high);
    return fallback;
  }
  return value;
}

Faults parse_faults(const char* text) {
  Faults parsed;
  std::string all = text ? text : "";
  for (size_t at = 0; at < all.size();) {
    size_t end = std::min(all.find(';', at), all.size());
    std::string item = all.substr(at, end - at);
    at = end + 1;
    size_t equals = item.find('=');
    if (equals == std::string::npos) continue;
    std::string name = item.substr(0, equals);
    uint64_t value = strtoull(item.c_str() + equals + 1, nullptr, 10);
    if (name == "oom-after")
      parsed.oom_after_bytes = value;
    else if (name == "sticky-after-launches")
      parsed.sticky_after_launches = value;
    else if (name == "slow-copy-us-per-mib")
      parsed.slow_copy_us_per_mib = value;
    else if (name == "lost-after-calls")
      parsed.lost_after_calls = value;
    else
      BF_ERROR(
          "BF_SOFTGPU_FAULTS: '{}' is not known; use oom-after, sticky-after-launches, slow-copy-us-per-mib or "
          "lost-after-calls",
          name);
  }
  return parsed;
}

CUuuid uuid_of(int physical) {
  CUuuid uuid;
  const unsigned char base[16] = {0xbf, 0x50, 0xf7, 0x69, 0x70, 0x75, 0x40, 0x00,
                                  0x80, 0x00, 0xba, 0xcf, 0x1e, 0x1d, 0x00, 0x00};
  memcpy(uuid.bytes, base, 16);
  uuid.bytes[15] = char(physical);
  return uuid;
}

std::string uuid_text(int physical) {
  CUuuid uuid = uuid_of(physical);
  std::string text = "GPU-";
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char byte[3];
    snprintf(byte, sizeof byte, "%02x", (unsigned char)uuid.bytes[i]);
    text += byte;
  }
  return text;
}

}  // namespace

CUuuid Device::uuid() const { return uuid_of(physical); }

void initialise_devices() {
  g_faults = parse_faults(getenv("BF_SOFTGPU_FAULTS"));
  int count = int(environment_number("BF_SOFTGPU_COUNT", 1, 0, limits::kDevices));
  uint64_t memory = environment_number("BF_SOFTGPU_MEMORY_MIB", 16384, 64, 1 << 20) << 20;
  std::vector<std::string> uuids;
  for (int physical = 0; physical < count; physical++) uuids.push_back(uuid_text(physical));
  VisibleDevices visible = choose_devices(CudaEnvironment::read().visible_devices, uuids);
  g_named_twice = visible.twice;
  for (size_t position : visible.devices) {
    int physical = int(position);
    auto* device = new Device(int(devices().size()), physical, memory, std::min(memory, g_faults.oom_after_bytes));
    make_default_pool(*device);
    make_primary_context(*device);
    devices().push_back(device);
  }
}

bool device_named_twice() { return g_named_twice; }

int device_count() { return int(devices().size()); }

Device* device_at(int ordinal) {
  return ordinal >= 0 && size_t(ordinal) < devices().size() ? devices()[ordinal] : nullptr;
}

const Faults& faults() { return g_faults; }

// --------------------------------------------------------------------------------------------------------- entry
// points

BF_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  BF_ENTER();
  if (!device) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetCount(int* count) {
  BF_ENTER();
  if (!count) return CUDA_ERROR_INVALID_VALUE;
  *count = device_count();
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetName(char* name, int length, CUdevice dev) {
  BF_ENTER();
  if (!name || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  snprintf(name, length, "Backfield Software GPU");
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice dev) {
  BF_ENTER();
  if (!uuid) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *uuid = device_at(dev)->uuid();
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice dev) { return cuDeviceGetUuid_v2(uuid, dev); }

BF_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) {
  BF_ENTER();
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = device_at(dev)->memory.total_bytes();
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice dev) {
  BF_ENTER();
  if (!text || length < 13) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  snprintf(text, length, "0000:%02X:00.0", device_at(dev)->pci_bus());
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetByPCIBusId(CUdevice* device, const char* text) {
  BF_ENTER();
  if (!device || !text) return CUDA_ERROR_INVALID_VALUE;
  unsigned domain = 0, bus = 0, slot = 0, function = 0;
  bool full = sscanf(text, "%x:%x:%x.%x", &domain, &bus, &slot, &function) >= 3;
  if (!full) {
    domain = function = 0;
    if (sscanf(text, "%x:%x.%x", &bus, &slot, &function) < 2) return CUDA_ERROR_INVALID_VALUE;
  }
  for (int i = 0; i < device_count(); i++) {
    if (domain || slot || function || int(bus) != device_at(i)->pci_bus()) continue;
    *device = i;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_DEVICE;
}

BF_API CUresult cuDeviceGetLuid(char*, unsigned int*, CUdevice dev) {
  BF_ENTER();
  return device_at(dev) ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_DEVICE;  // Windows only
}

BF_API CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice dev) {
  BF_ENTER();
  if (!major || !minor) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *major = 8;
  *minor = 0;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetProperties(CUdevprop* properties, CUdevice dev) {
  BF_ENTER();
  if (!properties) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *properties = {
      1024, {1024, 1024, 64}, {0x7fffffff, 65535, 65535}, kSharedPerBlock, 65536, 32, 0x7fffffff, kRegisters, 1410000,
      512};
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetTexture1DLinearMaxWidth(size_t* width, CUarray_format format, unsigned channels,
                                                   CUdevice dev) {
  BF_ENTER();
  if (!width || !format_bytes(format) || (channels != 1 && channels != 2 && channels != 4))
    return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *width = 1 << 28;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetExecAffinitySupport(int* supported, CUexecAffinityType type, CUdevice dev) {
  BF_ENTER();
  if (!supported || type != CU_EXEC_AFFINITY_TYPE_SM_COUNT) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *supported = 0;
  return CUDA_SUCCESS;
}

namespace {

// Attributes that are the same for every device, by number; what is missing answers 0.
struct Fixed {
  CUdevice_attribute attribute;
  int value;
};
constexpr Fixed kFixed[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kMaxThreadsPerBlock},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, kSharedPerBlock},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_PITCH, 0x7fffffff},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, kRegisters},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1410000},
    {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
    {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, kMultiprocessors},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH, 131072},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH, 131072},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT, 65536},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS, 2048},
    {CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT, 512},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1215000},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
    {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 40 << 20},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, kThreadsPerMultiprocessor},
    {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_LAYERS, 2048},
    {CU_DEVICE_ATTRIBUTE_CAN_TEX2D_GATHER, 1},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_HEIGHT, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE, 8192},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE, 8192},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE, 32768},
    {CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT, 32},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS, 2046},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_WIDTH, 131072},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_HEIGHT, 65536},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_WIDTH, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_HEIGHT, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_DEPTH, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_LAYERS, 2048},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_HEIGHT, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_LAYERS, 2048},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS, 2046},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH, 1 << 28},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_WIDTH, 131072},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_HEIGHT, 65000},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_PITCH, 2097120},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT, 32768},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 8},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, kSharedPerMultiprocessor},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, kRegisters},
    {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO, 2},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1, 1},
    {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, kSharedPerBlockOptin},
    {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, kBlocksPerMultiprocessor},
    {CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE, 30 << 20},
    {CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE, 128 << 20},
    {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, kSharedReserved},
    {CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 1},
    {CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT, 1},
    {CU_DEVICE_ATTRIBUTE_NUMA_ID, -1},
    {CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, 0},
    {CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID, int(0xbf0010de)},
};

}  // namespace

BF_API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice dev) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!value || attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  *value = 0;
  if (attribute == CU_DEVICE_ATTRIBUTE_PCI_BUS_ID) *value = device->pci_bus();
  if (attribute == CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID) *value = device->physical;
  for (const Fixed& fixed : kFixed)
    if (fixed.attribute == attribute) *value = fixed.value;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetHostAtomicCapabilities(unsigned int* capabilities, const CUatomicOperation* operations,
                                                  unsigned int count, CUdevice dev) {
  BF_ENTER();
  if (!capabilities || !operations || count == 0) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  for (unsigned i = 0; i < count; i++) capabilities[i] = 0;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetP2PAtomicCapabilities(unsigned int* capabilities, const CUatomicOperation* operations,
                                                 unsigned int count, CUdevice source, CUdevice destination) {
  BF_ENTER();
  if (!device_at(destination)) return CUDA_ERROR_INVALID_DEVICE;
  return cuDeviceGetHostAtomicCapabilities(capabilities, operations, count, source);
}

BF_API CUresult cuFlushGPUDirectRDMAWrites(CUflushGPUDirectRDMAWritesTarget, CUflushGPUDirectRDMAWritesScope) {
  BF_ENTER();
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace bf::softgpu
