// Questions about addresses.
#include <cstring>

#include "api/remote.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

// Managed memory counts as the device's, and the host has it, too. All of this is measured (580.159.04).
bool on_device(const Range& range) { return !range.host(); }
bool managed(const Range& range) { return range.kind == Range::Kind::kManaged; }


template <typename T>
CUresult put(void* data, T value) {
  std::memcpy(data, &value, sizeof value);
  return CUDA_SUCCESS;
}

CUresult answer(void* data, CUpointer_attribute attribute, uint64_t address, const Range& range) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: return put(data, as_handle<CUcontext>(range.context));
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return put(data, unsigned(on_device(range) ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST));
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: return put(data, CUdeviceptr(address));
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      return range.kind == Range::Kind::kDevice ? CUDA_ERROR_INVALID_VALUE : put(data, reinterpret_cast<void*>(address));
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS: return put(data, unsigned(range.sync_memops || managed(range)));
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: return put(data, (unsigned long long)(range.id));
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: return put(data, unsigned(managed(range)));
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return put(data, range.device);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: return put(data, 0u);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: return put(data, CUdeviceptr(range.base));
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: return put(data, size_t(range.bytes));
    case CU_POINTER_ATTRIBUTE_MAPPED: return put(data, 1u);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES: return put(data, uint64_t{0});
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE: return put(data, 0u);
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: return put(data, unsigned(CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE));
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: return put(data, as_handle<CUmemoryPool>(range.pool));
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE: return put(data, size_t(range.bytes));
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR: return put(data, CUdeviceptr(range.base));
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID: return put(data, (unsigned long long)(range.id));
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

// What cuPointerGetAttributes says of memory that is not CUDA's.
void answer_unknown(void* data, CUpointer_attribute attribute, uint64_t address) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: put(data, 0u); break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: put(data, int(CU_DEVICE_INVALID)); break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER: put(data, address); break;  // measured, 580.159.04
    default: put(data, uint64_t{0}); break;
  }
}

}  // namespace

CUresult handle_cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr ptr) noexcept {
  if (!data) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(ptr);
  return range ? answer(data, attribute, ptr, *range) : CUDA_ERROR_INVALID_VALUE;
}

CUresult handle_cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute* attributes, void** data,
                                       CUdeviceptr ptr) noexcept {
  if (numAttributes == 0 || !attributes || !data) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(ptr);
  for (unsigned i = 0; i < numAttributes; ++i) {
    if (!data[i]) return CUDA_ERROR_INVALID_VALUE;
    if (!range || answer(data[i], attributes[i], ptr, *range) != CUDA_SUCCESS) answer_unknown(data[i], attributes[i], ptr);
  }
  return CUDA_SUCCESS;
}

CUresult handle_cuPointerSetAttribute(const void* value, CUpointer_attribute attribute, CUdeviceptr ptr) noexcept {
  if (!value || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) return CUDA_ERROR_INVALID_VALUE;
  unsigned on;
  std::memcpy(&on, value, sizeof on);
  return state().ranges.set_sync_memops(ptr, on != 0) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace bf::client
