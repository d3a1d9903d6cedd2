#include "softgpu/driver/pool.h"

#include <algorithm>
#include <cstring>

#include "softgpu/driver/driver.h"
#include "softgpu/driver/graph.h"
#include "softgpu/driver/stream.h"

namespace bf::softgpu {

MemoryPoolRegistry& memory_pools() {
  static MemoryPoolRegistry* registry = new MemoryPoolRegistry;
  return *registry;
}

void make_default_pool(Device& device) {
  auto pool = std::make_shared<MemoryPool>();
  pool->device = device.ordinal;
  pool->is_default = true;
  memory_pools().add(pool);
  device.default_pool = device.current_pool = pool;
}

namespace {

// Whole blocks that were freed, as long as the pool holds no more than its threshold.
void keep(MemoryPool& pool, uint64_t bytes) {
  bytes = bytes / kBlockBytes * kBlockBytes;
  std::lock_guard lock(pool.mutex);
  if (pool.used + pool.kept + bytes > pool.release_threshold) return;
  if (device_at(pool.device)->memory.charge(bytes)) pool.kept += bytes;
}

// At most `bytes` of what is kept.
void let_go(MemoryPool& pool, uint64_t bytes) {
  std::lock_guard lock(pool.mutex);
  bytes = std::min(bytes, pool.kept);
  device_at(pool.device)->memory.uncharge(bytes);
  pool.kept -= bytes;
}

uint64_t blocks(uint64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

uint64_t reserved(MemoryPool& pool) {
  std::lock_guard lock(pool.mutex);
  return blocks(pool.used) + pool.kept;
}

}  // namespace

AllocationRef allocate_from_pool(Context& context, const MemoryPoolRef& pool, uint64_t bytes) {
  if (pool->max_bytes && pool->used + bytes > pool->max_bytes) return nullptr;
  // The pool's device, which need not be the context's.
  Context& owner = pool->device == context.device->ordinal ? context : *device_at(pool->device)->primary;
  let_go(*pool, blocks(bytes));
  uint64_t address = device_at(pool->device)->memory.allocate(bytes);
  if (!address) return nullptr;
  auto allocation = std::make_shared<Allocation>();
  allocation->begin = address;
  allocation->bytes = bytes;
  allocation->kind = MemoryKind::kPool;
  allocation->device = pool->device;
  allocation->context_id = owner.id;
  allocation->context = owner.handle;
  allocation->pool = pool;
  AddressSpace::instance().insert(allocation);
  uint64_t used = pool->used += bytes, high = pool->used_high;
  while (used > high && !pool->used_high.compare_exchange_weak(high, used)) {
  }
  return allocation;
}

void forget_pool_bytes(const Allocation& allocation) {
  if (allocation.pool) allocation.pool->used -= allocation.bytes;
}

void run_free(CUdeviceptr address) {
  AllocationRef allocation =
      AddressSpace::instance().remove(address, [](const Allocation& a) { return !a.graph_owned; });
  if (!allocation) return;
  forget_pool_bytes(*allocation);
  release_memory(*allocation);
  if (allocation->pool) keep(*allocation->pool, allocation->bytes);
}

namespace {

CUresult find_pool(CUmemoryPool handle, MemoryPoolRef* pool) {
  *pool = memory_pools().find(handle);
  return *pool ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult allocate(CUdeviceptr* out, size_t bytes, const MemoryPoolRef& pool, const StreamRef& stream) {
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  if (bytes == 0) return *out = 0, CUDA_SUCCESS;
  bool captured = false;
  BF_TRY(capture_allocation(stream, pool, bytes, out, &captured));
  if (captured) return CUDA_SUCCESS;
  AllocationRef allocation = allocate_from_pool(*stream->context, pool, bytes);
  if (!allocation) {
    // Frees that streams have not reached yet may be all that is missing.
    synchronize(*stream->context);
    allocation = allocate_from_pool(*stream->context, pool, bytes);
  }
  if (!allocation) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = allocation->begin;
  return CUDA_SUCCESS;
}

MemoryPoolRef current_pool(Device& device) {
  std::lock_guard lock(device.pool_mutex);
  return device.current_pool;
}

}  // namespace

BF_API CUresult cuMemAllocFromPoolAsync(CUdeviceptr* out, size_t bytes, CUmemoryPool handle, CUstream stream_handle) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(stream_handle, &stream));
  MemoryPoolRef pool;
  BF_TRY(find_pool(handle, &pool));
  return allocate(out, bytes, pool, stream);
}

BF_API CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream stream_handle) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(stream_handle, &stream));
  return allocate(out, bytes, current_pool(*stream->context->device), stream);
}

BF_API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream_handle) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(stream_handle, &stream));
  if (!address) return CUDA_SUCCESS;
  AllocationRef allocation = AddressSpace::instance().find(address);
  bool freeable = allocation && allocation->begin == address &&
                  (allocation->kind == MemoryKind::kPool || allocation->kind == MemoryKind::kDevice);
  if (!freeable) return CUDA_ERROR_INVALID_VALUE;
  bool captured = false;
  BF_TRY(capture_free(stream, address, &captured));
  if (captured) return CUDA_SUCCESS;
  if (allocation->graph_owned) return CUDA_SUCCESS;
  if (allocation->freeing.exchange(true)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, FreeWork{address});
}

BF_API CUresult cuMemPoolCreate(CUmemoryPool* out, const CUmemPoolProps* props) {
  BF_ENTER();
  if (!out || !props || props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (props->handleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  if (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  if (!device_at(props->location.id)) return CUDA_ERROR_INVALID_DEVICE;
  auto pool = std::make_shared<MemoryPool>();
  pool->device = props->location.id;
  pool->max_bytes = props->maxSize;
  *out = memory_pools().add(std::move(pool));
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemPoolDestroy(CUmemoryPool handle) {
  BF_ENTER();
  MemoryPoolRef pool;
  BF_TRY(find_pool(handle, &pool));
  if (pool->is_default) return CUDA_ERROR_INVALID_VALUE;
  memory_pools().remove(handle);
  let_go(*pool, UINT64_MAX);
  Device& device = *device_at(pool->device);
  std::lock_guard lock(device.pool_mutex);
  if (device.current_pool == pool) device.current_pool = device.default_pool;
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemPoolTrimTo(CUmemoryPool handle, size_t least) {
  BF_ENTER();
  MemoryPoolRef pool;
  BF_TRY(find_pool(handle, &pool));
  const uint64_t held = reserved(*pool);
  if (held > least) let_go(*pool, (held - least) / kBlockBytes * kBlockBytes);
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  BF_ENTER();
  MemoryPoolRef pool;
  BF_TRY(find_pool(handle, &pool));
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
      pool->reuse_event = *(int*)value;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
      pool->reuse_opportunistic = *(int*)value;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      pool->reuse_internal = *(int*)value;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      pool->release_threshold = *(uint64_t*)value;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      if (*(uint64_t*)value != 0) return CUDA_ERROR_INVALID_VALUE;  // only a reset is allowed
      pool->used_high = pool->used.load();
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

BF_API CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  BF_ENTER();
  MemoryPoolRef pool;
  BF_TRY(find_pool(handle, &pool));
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
      *(int*)value = pool->reuse_event;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
      *(int*)value = pool->reuse_opportunistic;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      *(int*)value = pool->reuse_internal;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      *(uint64_t*)value = pool->release_threshold;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
      *(uint64_t*)value = reserved(*pool);
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
      *(uint64_t*)value = std::max(blocks(pool->used_high), reserved(*pool));
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
      *(uint64_t*)value = pool->used;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      *(uint64_t*)value = pool->used_high;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

BF_API CUresult cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc* map, size_t count) {
  BF_ENTER();
  MemoryPoolRef pool;
  BF_TRY(find_pool(handle, &pool));
  if (count && !map) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++) {
    if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
    if (!device_at(map[i].location.id)) return CUDA_ERROR_INVALID_DEVICE;
    bool own = map[i].location.id == pool->device;
    if (own && map[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE) return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool handle, CUmemLocation* location) {
  BF_ENTER();
  MemoryPoolRef pool;
  BF_TRY(find_pool(handle, &pool));
  if (!flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(location->id)) return CUDA_ERROR_INVALID_DEVICE;
  *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice dev) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!pool) return CUDA_ERROR_INVALID_VALUE;
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  *pool = device->default_pool->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice dev) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!pool) return CUDA_ERROR_INVALID_VALUE;
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  *pool = current_pool(*device)->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool handle) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  MemoryPoolRef pool;
  BF_TRY(find_pool(handle, &pool));
  if (pool->device != dev) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(device->pool_mutex);
  device->current_pool = pool;
  return CUDA_SUCCESS;
}

namespace {

CUresult pool_device(const CUmemLocation* location, CUmemAllocationType type, CUdevice* dev) {
  if (!location || type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  *dev = location->id;
  return CUDA_SUCCESS;
}

}  // namespace

BF_API CUresult cuMemGetDefaultMemPool(CUmemoryPool* pool, CUmemLocation* location, CUmemAllocationType type) {
  BF_ENTER();
  CUdevice dev;
  BF_TRY(pool_device(location, type, &dev));
  return cuDeviceGetDefaultMemPool(pool, dev);
}
BF_API CUresult cuMemGetMemPool(CUmemoryPool* pool, CUmemLocation* location, CUmemAllocationType type) {
  BF_ENTER();
  CUdevice dev;
  BF_TRY(pool_device(location, type, &dev));
  return cuDeviceGetMemPool(pool, dev);
}
BF_API CUresult cuMemSetMemPool(CUmemLocation* location, CUmemAllocationType type, CUmemoryPool pool) {
  BF_ENTER();
  CUdevice dev;
  BF_TRY(pool_device(location, type, &dev));
  return cuDeviceSetMemPool(dev, pool);
}

}  // namespace bf::softgpu
