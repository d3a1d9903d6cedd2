// Pinned memory: ordinary memory of this process, remembered as ranges. The GPU does not reach it by itself: copies from
// and to it travel like any others, but need not wait for the bytes to leave it.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "api/remote.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

size_t page_up(size_t bytes) {
  static const size_t page = size_t(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) & ~(page - 1);
}

// Before pinned memory goes away: copies that read or write it are finished, as with the driver's own.
CUresult finish_transfers(const Range& range) {
  Session& session = *Session::get();
  bool busy = session.sends_outstanding() || session.landing().overlaps(reinterpret_cast<void*>(range.base), range.bytes);
  if (!busy || !current_context()) return CUDA_SUCCESS;
  return handle_cuCtxSynchronize();
}

}  // namespace

CUresult handle_cuMemHostAlloc(void** pp, size_t bytesize, unsigned int Flags) noexcept {
  constexpr unsigned kKnown = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  if (!pp || (Flags & ~kKnown)) return CUDA_ERROR_INVALID_VALUE;
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  if (bytesize == 0) {
    *pp = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
  }
  void* memory = mmap(nullptr, page_up(bytesize), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  Range range;
  range.kind = Range::Kind::kPinned;
  range.base = value_of(memory);
  range.bytes = bytesize;
  range.context = current_context();
  range.device = context->device;
  range.flags = Flags;
  state().ranges.insert(range);
  Session::get()->link().bulk().remember(memory, bytesize);
  *pp = memory;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemAllocHost_v2(void** pp, size_t bytesize) noexcept { return handle_cuMemHostAlloc(pp, bytesize, 0); }

CUresult handle_cuMemFreeHost(void* p) noexcept {
  if (!p) return CUDA_SUCCESS;
  auto range = state().ranges.find(value_of(p));
  if (!range || range->base != value_of(p) || range->kind != Range::Kind::kPinned) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = finish_transfers(*range); result == CUDA_ERROR_DEINITIALIZED) return result;
  if (!state().ranges.remove(value_of(p), Range::Kind::kPinned)) return CUDA_ERROR_INVALID_VALUE;
  Session::get()->link().bulk().forget(p);
  munmap(p, page_up(range->bytes));
  return CUDA_SUCCESS;
}

CUresult handle_cuMemHostRegister_v2(void* p, size_t bytesize, unsigned int Flags) noexcept {
  constexpr unsigned kKnown = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_IOMEMORY |
                              CU_MEMHOSTREGISTER_READ_ONLY;
  if (!p || bytesize == 0 || (Flags & ~kKnown)) return CUDA_ERROR_INVALID_VALUE;
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  if (Flags & CU_MEMHOSTREGISTER_IOMEMORY) return CUDA_ERROR_NOT_SUPPORTED;
  if (state().ranges.find(value_of(p)) || state().ranges.find(value_of(p) + bytesize - 1)) {
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  Range range;
  range.kind = Range::Kind::kRegistered;
  range.base = value_of(p);
  range.bytes = bytesize;
  range.context = current_context();
  range.device = context->device;
  range.flags = Flags;
  state().ranges.insert(range);
  Session::get()->link().bulk().remember(p, bytesize);
  return CUDA_SUCCESS;
}

CUresult handle_cuMemHostUnregister(void* p) noexcept {
  if (!p) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(value_of(p));
  if (!range || range->base != value_of(p) || range->kind != Range::Kind::kRegistered) {
    return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  }
  if (CUresult result = finish_transfers(*range); result == CUDA_ERROR_DEINITIALIZED) return result;
  state().ranges.remove(value_of(p), Range::Kind::kRegistered);
  Session::get()->link().bulk().forget(p);
  return CUDA_SUCCESS;
}

// Device code cannot reach host memory yet; better said here than by a fault in a kernel.
CUresult handle_cuMemHostGetDevicePointer_v2(CUdeviceptr* pdptr, void* p, unsigned int Flags) noexcept {
  if (!pdptr || !p || Flags != 0) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(value_of(p));
  if (!range || range->kind == Range::Kind::kDevice) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult handle_cuMemHostGetFlags(unsigned int* pFlags, void* p) noexcept {
  if (!pFlags || !p) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(value_of(p));
  if (!range || range->kind != Range::Kind::kPinned) return CUDA_ERROR_INVALID_VALUE;
  *pFlags = range->flags | CU_MEMHOSTALLOC_DEVICEMAP;
  return CUDA_SUCCESS;
}

}  // namespace bf::client
