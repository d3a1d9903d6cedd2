// Allocation, host memory, and what pointers are.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "proto/abi/managed_hints.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/pool.h"
#include "softgpu/driver/stream.h"

namespace bf::softgpu {
namespace {

uint64_t page_bytes() { return 4096; }

abi::ManagedHints& hints() {
  static auto* made = new abi::ManagedHints([](int device) { return device_at(device) != nullptr; });
  return *made;
}

CUresult allocate(uint64_t bytes, MemoryKind kind, uint32_t flags, CUdeviceptr* out) {
  if (!out || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  BF_TRY(check_not_capturing());
  AllocationRef allocation = allocate_memory(*context, bytes, kind, flags);
  if (!allocation) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = allocation->begin;
  return CUDA_SUCCESS;
}

}  // namespace

BF_API CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
  BF_ENTER();
  if (const ContextRef context = current_or_null()) context->await_room();
  return allocate(bytes, MemoryKind::kDevice, 0, out);
}

BF_API CUresult cuMemAllocPitch_v2(CUdeviceptr* out, size_t* pitch, size_t width, size_t height, unsigned int element) {
  BF_ENTER();
  if (!pitch || width == 0 || height == 0 || (element != 4 && element != 8 && element != 16))
    return CUDA_ERROR_INVALID_VALUE;
  size_t row = (width + kGranule - 1) / kGranule * kGranule;
  if (row < width || height > SIZE_MAX / row) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(allocate(row * height, MemoryKind::kDevice, 0, out));
  *pitch = row;
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemAllocManaged(CUdeviceptr* out, size_t bytes, unsigned int flags) {
  BF_ENTER();
  if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(allocate(bytes, MemoryKind::kManaged, flags, out));
  hints().forget(*out, bytes);
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemFree_v2(CUdeviceptr address) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  if (address == 0) return CUDA_SUCCESS;
  BF_TRY(check_not_capturing());
  AllocationRef allocation = AddressSpace::instance().find(address);
  auto freeable = [](const Allocation& a) {
    return a.kind == MemoryKind::kDevice || a.kind == MemoryKind::kManaged || a.kind == MemoryKind::kPool;
  };
  if (!allocation || allocation->begin != address || !freeable(*allocation) || allocation->freeing)
    return CUDA_ERROR_INVALID_VALUE;
  // Work that still uses the memory ends first, whichever context queued it.
  if (ContextRef owner = contexts().find(allocation->context); owner && owner != context) synchronize(*owner);
  BF_TRY(synchronize(*context));
  if (allocation->graph_owned) return CUDA_SUCCESS;
  allocation = AddressSpace::instance().remove(address, freeable);
  if (!allocation) return CUDA_ERROR_INVALID_VALUE;
  forget_pool_bytes(*allocation);
  release_memory(*allocation);
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  if (free) *free = context->device->memory.free_bytes();
  if (total) *total = context->device->memory.total_bytes();
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  AllocationRef allocation = AddressSpace::instance().find(address);
  if (!allocation || !allocation->visible) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = allocation->begin;
  if (bytes) *bytes = allocation->bytes;
  return CUDA_SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------- host
// memory

BF_API CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned int flags) {
  BF_ENTER();
  constexpr uint32_t kFlags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  if (!out || bytes == 0 || (flags & ~kFlags)) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  BF_TRY(check_not_capturing());
  uint64_t rounded = (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
  if (rounded < bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  void* memory = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  auto range = std::make_shared<Allocation>();
  range->begin = uint64_t(memory);
  range->bytes = bytes;
  range->kind = MemoryKind::kPinned;
  range->device = context->device->ordinal;
  range->context_id = context->id;
  range->context = context->handle;
  range->flags = flags | CU_MEMHOSTALLOC_DEVICEMAP;
  if (!AddressSpace::instance().insert(range)) {
    munmap(memory, rounded);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  *out = memory;
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemAllocHost_v2(void** out, size_t bytes) {
  BF_ENTER();
  return cuMemHostAlloc(out, bytes, 0);
}

BF_API CUresult cuMemFreeHost(void* pointer) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  if (!pointer) return CUDA_SUCCESS;
  BF_TRY(check_not_capturing());
  auto pinned = [](const Allocation& a) { return a.kind == MemoryKind::kPinned; };
  AllocationRef range = AddressSpace::instance().find(uint64_t(pointer));
  if (!range || range->begin != uint64_t(pointer) || !pinned(*range)) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(synchronize(*context));
  range = AddressSpace::instance().remove(uint64_t(pointer), pinned);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  release_memory(*range);
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned int flags) {
  BF_ENTER();
  constexpr uint32_t kFlags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_IOMEMORY |
                              CU_MEMHOSTREGISTER_READ_ONLY;
  if (!pointer || bytes == 0 || (flags & ~kFlags)) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  BF_TRY(check_not_capturing());
  context->await_room();
  auto range = std::make_shared<Allocation>();
  range->begin = uint64_t(pointer);
  range->bytes = bytes;
  range->kind = MemoryKind::kRegistered;
  range->device = context->device->ordinal;
  range->context_id = context->id;
  range->context = context->handle;
  range->flags = flags | CU_MEMHOSTREGISTER_DEVICEMAP;
  range->writable = !(flags & CU_MEMHOSTREGISTER_READ_ONLY);
  return AddressSpace::instance().insert(range) ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
}

BF_API CUresult cuMemHostUnregister(void* pointer) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  BF_TRY(synchronize(*context));
  auto registered = [](const Allocation& a) { return a.kind == MemoryKind::kRegistered; };
  return AddressSpace::instance().remove(uint64_t(pointer), registered) ? CUDA_SUCCESS
                                                                        : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

BF_API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* out, void* pointer, unsigned int flags) {
  BF_ENTER();
  if (!out || flags) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  AllocationRef range = AddressSpace::instance().find(uint64_t(pointer));
  if (!range || (!range->host() && range->kind != MemoryKind::kManaged)) return CUDA_ERROR_INVALID_VALUE;
  *out = uint64_t(pointer);
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemHostGetFlags(unsigned int* flags, void* pointer) {
  BF_ENTER();
  if (!flags) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  AllocationRef range = AddressSpace::instance().find(uint64_t(pointer));
  if (!range || !range->host()) return CUDA_ERROR_INVALID_VALUE;
  *flags = range->flags;
  return CUDA_SUCCESS;
}

// ---------------------------------------------------------------------------------------------------- pointer
// attributes

namespace {

template <typename T>
CUresult put(void* data, T value) {
  memcpy(data, &value, sizeof value);
  return CUDA_SUCCESS;
}

// Answers for memory that CUDA does not know: INVALID_VALUE, but for the questions that ask just that.
CUresult unknown_pointer_attribute(void* data, CUpointer_attribute attribute) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return put<uint32_t>(data, 0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return put<int>(data, -2);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult pointer_attribute(void* data, CUpointer_attribute attribute, CUdeviceptr address) {
  AllocationRef range = AddressSpace::instance().find(address);
  if (!range || !range->visible) return CUDA_ERROR_INVALID_VALUE;
  bool managed = range->kind == MemoryKind::kManaged;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      if (range->kind == MemoryKind::kPool || range->kind == MemoryKind::kMapped) return put<CUcontext>(data, nullptr);
      return put(data, range->context);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return put<uint32_t>(data, range->host() ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return put<uint64_t>(data, address);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (!range->host() && !managed) return CUDA_ERROR_INVALID_VALUE;
      return put<uint64_t>(data, address);
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
      return put<uint32_t>(data, range->sync_memops);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return put<uint64_t>(data, range->buffer_id);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return put<uint32_t>(data, managed);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return put<int>(data, range->device);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
      return put<uint32_t>(data, 0);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return put<uint64_t>(data, range->begin);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return put<uint64_t>(data, range->bytes);
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return put<uint32_t>(data, 1);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return put<uint64_t>(data, range->physical ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0);
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return put<uint32_t>(
          data, range->writable ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ);
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      return put(data, range->pool ? range->pool->handle : nullptr);
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      return put<uint64_t>(data, range->bytes);
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      return put<uint64_t>(data, range->begin);
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return put<uint64_t>(data, range->buffer_id);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

size_t attribute_bytes(CUpointer_attribute attribute) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return 8;
    case CU_POINTER_ATTRIBUTE_P2P_TOKENS:
      return 0;
    default:
      return 4;
  }
}

}  // namespace

BF_API CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr address) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  if (!data) return CUDA_ERROR_INVALID_VALUE;
  return pointer_attribute(data, attribute, address);
}

// The plural form never fails for a pointer that CUDA does not know: it answers zeros.
BF_API CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute* attributes, void** data,
                                       CUdeviceptr address) {
  BF_ENTER();
  if (count == 0 || !attributes || !data) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; i++) {
    if (!data[i]) return CUDA_ERROR_INVALID_VALUE;
    if (pointer_attribute(data[i], attributes[i], address) == CUDA_SUCCESS) continue;
    memset(data[i], 0, attribute_bytes(attributes[i]));
    unknown_pointer_attribute(data[i], attributes[i]);
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuPointerSetAttribute(const void* value, CUpointer_attribute attribute, CUdeviceptr address) {
  BF_ENTER();
  if (!value || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) return CUDA_ERROR_INVALID_VALUE;
  AllocationRef range = AddressSpace::instance().find(address);
  if (!range || range->host()) return CUDA_ERROR_INVALID_VALUE;
  range->sync_memops = *(const uint32_t*)value != 0;
  return CUDA_SUCCESS;
}

// ---------------------------------------------------------------------------------------------- hints for managed
// memory

namespace {

CUresult check_managed(CUdeviceptr address, size_t count) {
  AllocationRef range = AddressSpace::instance().find(address);
  if (count == 0 || !range || range->kind != MemoryKind::kManaged || address + count > range->end())
    return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

}  // namespace

BF_API CUresult cuMemPrefetchAsync_v2(CUdeviceptr address, size_t count, CUmemLocation location, unsigned int flags,
                                      CUstream s) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(s, &stream));
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(hints().check_prefetch(location));
  BF_TRY(check_managed(address, count));
  hints().prefetch(address, count, location);
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemPrefetchAsync(CUdeviceptr address, size_t count, CUdevice dev, CUstream stream) {
  BF_ENTER();
  return cuMemPrefetchAsync_v2(address, count, abi::location_of(dev), 0, stream);
}

BF_API CUresult cuMemPrefetchBatchAsync(CUdeviceptr* addresses, size_t* sizes, size_t count, CUmemLocation* locations,
                                        size_t* indices, size_t location_count, unsigned long long flags, CUstream s) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(s, &stream));
  if (!addresses || !sizes || !locations || !indices || !count || !location_count || flags)
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < location_count; i++) BF_TRY(hints().check_prefetch(locations[i]));
  for (size_t i = 0; i < count; i++) BF_TRY(check_managed(addresses[i], sizes[i]));
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemAdvise_v2(CUdeviceptr address, size_t count, CUmem_advise advice, CUmemLocation location) {
  BF_ENTER();
  BF_TRY(check_managed(address, count));
  return hints().advise(address, count, advice, location);
}

BF_API CUresult cuMemAdvise(CUdeviceptr address, size_t count, CUmem_advise advice, CUdevice dev) {
  BF_ENTER();
  return cuMemAdvise_v2(address, count, advice, abi::location_of(dev));
}

BF_API CUresult cuMemRangeGetAttribute(void* data, size_t bytes, CUmem_range_attribute attribute, CUdeviceptr address,
                                       size_t count) {
  BF_ENTER();
  if (!data) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(check_managed(address, count));
  return hints().attribute(data, bytes, attribute, address, count);
}

BF_API CUresult cuMemRangeGetAttributes(void** data, size_t* bytes, CUmem_range_attribute* attributes,
                                        size_t attribute_count, CUdeviceptr address, size_t count) {
  BF_ENTER();
  if (!data || !bytes || !attributes) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < attribute_count; i++)
    BF_TRY(cuMemRangeGetAttribute(data[i], bytes[i], attributes[i], address, count));
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
