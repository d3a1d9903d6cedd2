// Devices: pure questions, answered from the session's snapshot.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "client/contexts.h"
#include "api/remote.h"

namespace bf::client {

namespace {

// What the GPU can do and a program here cannot, as the functions are not carried (docs/api-coverage.md) or need the memory of
// one machine: 0, so that programs which ask first take another way.
constexpr CUdevice_attribute kNotHere[] = {
    CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS,
    CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES,
    CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST,
    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES,
    CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_ALLOC_DMA_BUF_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS,
    CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_MEM_DECOMPRESS_ALGORITHM_MASK,
    CU_DEVICE_ATTRIBUTE_MEM_DECOMPRESS_MAXIMUM_LENGTH,
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_MULTINODE_IPC_SUPPORTED,
};

// Attributes by number: PyTorch asks for them thousands of times.
struct AttributeTable {
  std::array<int, CU_DEVICE_ATTRIBUTE_MAX> value{};
  std::array<bool, CU_DEVICE_ATTRIBUTE_MAX> known{};
};
std::vector<AttributeTable>& attribute_tables() {
  static auto* tables = new std::vector<AttributeTable>;
  return *tables;
}

}  // namespace

void make_attribute_tables(const SessionSnapshot& snapshot) {
  for (const DeviceSnapshot& device : snapshot.devices) {
    AttributeTable& table = attribute_tables().emplace_back();
    for (auto [attribute, value] : device.attributes) {
      if (attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX) continue;
      table.value[size_t(attribute)] = int(value);
      table.known[size_t(attribute)] = true;
    }
    for (CUdevice_attribute attribute : kNotHere) table.value[attribute] = 0;
  }
}

const int* device_attributes(int device) { return attribute_tables()[size_t(device)].value.data(); }
int device_attribute(int device, CUdevice_attribute attribute) { return device_attributes(device)[attribute]; }

CUresult handle_cuDeviceGet(CUdevice* device, int ordinal) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!device) return CUDA_ERROR_INVALID_VALUE;
  if (!device_snapshot(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetCount(int* count) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!count) return CUDA_ERROR_INVALID_VALUE;
  *count = int(Session::get()->snapshot().devices.size());
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetName(char* name, int len, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!name || len <= 0) return CUDA_ERROR_INVALID_VALUE;
  const DeviceSnapshot* device = device_snapshot(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  std::strncpy(name, device->name.c_str(), size_t(len));
  name[len - 1] = 0;
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!uuid) return CUDA_ERROR_INVALID_VALUE;
  const DeviceSnapshot* device = device_snapshot(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  std::memcpy(uuid->bytes, device->uuid.data(), sizeof uuid->bytes);
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetUuid(CUuuid* uuid, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  return handle_cuDeviceGetUuid_v2(uuid, dev);
}

CUresult handle_cuDeviceGetLuid(char* luid, unsigned int* deviceNodeMask, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!luid || !deviceNodeMask) return CUDA_ERROR_INVALID_VALUE;
  const DeviceSnapshot* device = device_snapshot(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  if (!device->has_luid) return CUDA_ERROR_NOT_SUPPORTED;
  std::memcpy(luid, device->luid.data(), device->luid.size());
  *deviceNodeMask = device->luid_node_mask;
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  const DeviceSnapshot* device = device_snapshot(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = device->total_bytes;
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetAttribute(int* pi, CUdevice_attribute attrib, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!pi) return CUDA_ERROR_INVALID_VALUE;
  if (dev < 0 || size_t(dev) >= attribute_tables().size()) return CUDA_ERROR_INVALID_DEVICE;
  const AttributeTable& table = attribute_tables()[size_t(dev)];
  if (attrib <= 0 || attrib >= CU_DEVICE_ATTRIBUTE_MAX || !table.known[attrib]) return CUDA_ERROR_INVALID_VALUE;
  *pi = table.value[attrib];
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetProperties(CUdevprop* prop, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!prop) return CUDA_ERROR_INVALID_VALUE;
  if (!device_snapshot(dev)) return CUDA_ERROR_INVALID_DEVICE;
  auto get = [&](CUdevice_attribute attribute) { return device_attribute(dev, attribute); };
  prop->maxThreadsPerBlock = get(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
  prop->maxThreadsDim[0] = get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X);
  prop->maxThreadsDim[1] = get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y);
  prop->maxThreadsDim[2] = get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z);
  prop->maxGridSize[0] = get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X);
  prop->maxGridSize[1] = get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y);
  prop->maxGridSize[2] = get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z);
  prop->sharedMemPerBlock = get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
  prop->totalConstantMemory = get(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
  prop->SIMDWidth = get(CU_DEVICE_ATTRIBUTE_WARP_SIZE);
  prop->memPitch = get(CU_DEVICE_ATTRIBUTE_MAX_PITCH);
  prop->regsPerBlock = get(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
  prop->clockRate = get(CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
  prop->textureAlign = get(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceComputeCapability(int* major, int* minor, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!major || !minor) return CUDA_ERROR_INVALID_VALUE;
  const DeviceSnapshot* device = device_snapshot(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  *major = int(device->compute_major);
  *minor = int(device->compute_minor);
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetPCIBusId(char* pciBusId, int len, CUdevice dev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  constexpr int kLength = 13;  // "0000:00:00.0" and its end: nothing shorter will do (580.159.04)
  if (!pciBusId || len < kLength) return CUDA_ERROR_INVALID_VALUE;
  const DeviceSnapshot* device = device_snapshot(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(pciBusId, size_t(len), "%04X:%02X:%02X.0", device->pci_domain, device->pci_bus, device->pci_device);
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetByPCIBusId(CUdevice* dev, const char* pciBusId) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!dev || !pciBusId) return CUDA_ERROR_INVALID_VALUE;
  unsigned domain = 0, bus = 0, device = 0, function = 0;
  if (std::sscanf(pciBusId, "%x:%x:%x.%x", &domain, &bus, &device, &function) < 3) {
    domain = function = 0;
    if (std::sscanf(pciBusId, "%x:%x.%x", &bus, &device, &function) < 2) return CUDA_ERROR_INVALID_VALUE;
  }
  const auto& devices = Session::get()->snapshot().devices;
  for (size_t i = 0; i < devices.size(); ++i) {
    if (devices[i].pci_domain != domain || devices[i].pci_bus != bus || devices[i].pci_device != device || function) continue;
    *dev = int(i);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_DEVICE;
}

namespace {

const PeerSnapshot* find_peers(CUdevice from, CUdevice to) {
  for (const PeerSnapshot& peer : Session::get()->snapshot().peers) {
    if (int(peer.from) == from && int(peer.to) == to) return &peer;
  }
  return nullptr;
}

}  // namespace

CUresult handle_cuDeviceCanAccessPeer(int* canAccessPeer, CUdevice dev, CUdevice peerDev) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!canAccessPeer) return CUDA_ERROR_INVALID_VALUE;
  if (!device_snapshot(dev) || !device_snapshot(peerDev)) return CUDA_ERROR_INVALID_DEVICE;
  const PeerSnapshot* peer = find_peers(dev, peerDev);
  *canAccessPeer = peer && peer->access;
  return CUDA_SUCCESS;
}

CUresult handle_cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attrib, CUdevice src, CUdevice dst) noexcept {
  if (CUresult why = Session::questions_gate(); why != CUDA_SUCCESS) return why;
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  if (!device_snapshot(src) || !device_snapshot(dst) || src == dst) return CUDA_ERROR_INVALID_DEVICE;
  const PeerSnapshot* peer = find_peers(src, dst);
  const int64_t* known = peer ? find_attribute(peer->attributes, attrib) : nullptr;
  if (!known) return CUDA_ERROR_INVALID_VALUE;
  *value = int(*known);
  return CUDA_SUCCESS;
}

// Profilers run on the server's side; here there is nothing to switch.
CUresult handle_cuProfilerStart() noexcept { return need_context(); }
CUresult handle_cuProfilerStop() noexcept { return need_context(); }
CUresult handle_cuProfilerInitialize(const char*, const char*, CUoutput_mode) noexcept { return CUDA_ERROR_NOT_SUPPORTED; }

}  // namespace bf::client
