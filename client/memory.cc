// Device memory. Addresses are the worker's real ones; the client remembers the ranges.
#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/managed.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

void remember(CUdeviceptr address, size_t bytes, uint64_t pool = 0) {
  Range range;
  range.base = address;
  range.bytes = bytes;
  range.context = current_context();
  range.device = state().contexts.find(range.context)->device;
  range.pool = pool;
  state().ranges.insert(range);
}

}  // namespace

CUresult handle_cuMemAlloc_v2(CUdeviceptr* dptr, size_t bytesize) noexcept {
  if (!dptr || bytesize == 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  CUdeviceptr address = 0;
  if (CUresult result = remote_cuMemAlloc_v2(&address, bytesize); result != CUDA_SUCCESS) return result;
  remember(address, bytesize);
  *dptr = address;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemAllocPitch_v2(CUdeviceptr* dptr, size_t* pPitch, size_t WidthInBytes, size_t Height,
                                   unsigned int ElementSizeBytes) noexcept {
  if (!dptr || !pPitch || WidthInBytes == 0 || Height == 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  CUdeviceptr address = 0;
  size_t pitch = 0;
  CUresult result = remote_cuMemAllocPitch_v2(&address, &pitch, WidthInBytes, Height, ElementSizeBytes);
  if (result != CUDA_SUCCESS) return result;
  remember(address, pitch * Height);
  *dptr = address;
  *pPitch = pitch;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemFree_v2(CUdeviceptr dptr) noexcept {
  if (dptr == 0) return CUDA_SUCCESS;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  auto range = state().ranges.find(dptr);
  if (range && range->kind == Range::Kind::kManaged) return free_managed(*range, dptr);
  if (!range || range->base != dptr || range->kind != Range::Kind::kDevice || !range->owned) return CUDA_ERROR_INVALID_VALUE;
  // Freeing waits for the device, so a program may look at what it wrote afterwards.
  if (Mirrors::instance().live()) {
    if (CUresult result = handle_cuCtxSynchronize(); result != CUDA_SUCCESS) return result;
  }
  // Forgotten first: the address may be another allocation's as soon as the worker has freed it.
  state().ranges.remove(dptr, Range::Kind::kDevice);
  return post_cuMemFree_v2(dptr);
}

CUresult handle_cuMemGetAddressRange_v2(CUdeviceptr* pbase, size_t* psize, CUdeviceptr dptr) noexcept {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  auto range = state().ranges.find(dptr);
  if (!range) return CUDA_ERROR_NOT_FOUND;
  if (pbase) *pbase = range->base;
  if (psize) *psize = range->bytes;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemAllocAsync(CUdeviceptr* dptr, size_t bytesize, CUstream hStream) noexcept {
  if (!dptr) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (bytesize == 0) return *dptr = 0, CUDA_SUCCESS;
  CUdeviceptr address = 0;
  if (CUresult result = remote_cuMemAllocAsync(&address, bytesize, hStream); result != CUDA_SUCCESS) return result;
  remember(address, bytesize);
  *dptr = address;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemAllocFromPoolAsync(CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream) noexcept {
  if (!dptr || !pool) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (bytesize == 0) return *dptr = 0, CUDA_SUCCESS;
  CUdeviceptr address = 0;
  CUresult result = remote_cuMemAllocFromPoolAsync(&address, bytesize, pool, hStream);
  if (result != CUDA_SUCCESS) return result;
  remember(address, bytesize, value_of(pool));
  *dptr = address;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) noexcept {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (dptr == 0) return CUDA_SUCCESS;
  auto range = state().ranges.find(dptr);
  if (!range || range->base != dptr || range->kind != Range::Kind::kDevice || !range->owned) return CUDA_ERROR_INVALID_VALUE;
  if (!capture_of(hStream)) state().ranges.remove(dptr, Range::Kind::kDevice);  // a graph frees it at each launch
  return post_cuMemFreeAsync(dptr, hStream);
}

// A reservation counts as device memory: what is mapped in it may change and adjoin, and copies run across. What is not
// mapped, the driver finds out.
CUresult handle_cuMemAddressReserve(CUdeviceptr* ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                    unsigned long long flags) noexcept {
  if (!ptr) return CUDA_ERROR_INVALID_VALUE;
  CUdeviceptr address = 0;
  CUresult result = remote_cuMemAddressReserve(&address, size, alignment, addr, flags);
  if (result != CUDA_SUCCESS) return result;
  Range range;
  range.base = address;
  range.bytes = size;
  range.owned = false;
  state().ranges.insert(range);
  *ptr = address;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemAddressFree(CUdeviceptr ptr, size_t size) noexcept {
  CUresult result = remote_cuMemAddressFree(ptr, size);
  if (result == CUDA_SUCCESS) state().ranges.remove(ptr, Range::Kind::kDevice);
  return result;
}

// Managed memory is mapped on the worker, too, but that is nobody's business.
CUresult handle_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* addr) noexcept {
  auto range = state().ranges.find(value_of(addr));
  if (!handle || !range || range->kind != Range::Kind::kDevice) return CUDA_ERROR_INVALID_VALUE;
  CUmemGenericAllocationHandle made = 0;
  CUresult result = remote_cuMemRetainAllocationHandle(&made, addr);
  if (result == CUDA_SUCCESS) *handle = made;
  return result;
}

}  // namespace bf::client
