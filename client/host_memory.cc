// Pinned memory: memory of this process, remembered as ranges. Copies from and to it travel like any others, but need not
// wait for the bytes to leave it. It is mirrored (client/mirrors.h) once device code can reach it; on the worker's own
// host larger ranges are shared with it from the start (client/shared_memory.h), and copies are the GPU's own.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

#include "api/remote.h"
#include "client/contexts.h"
#include "client/mirrors.h"
#include "client/shared_memory.h"
#include "proto/shared_memory.h"

namespace bf::client {

namespace {

// Where pinned memory lies: addresses that no system gives to anything else, in this process and in the worker.
constexpr uint64_t kPinnedBegin = kSharedBegin + kSharedBytes, kPinnedEnd = 0x7000'0000'0000;

void* map_pinned(size_t bytes) {
  static std::atomic<uint64_t> next{kPinnedBegin};
  for (int attempt = 0; attempt < 16 && bytes <= kPinnedEnd - kPinnedBegin; ++attempt) {
    uint64_t wanted = next.fetch_add(bytes, std::memory_order_relaxed);
    if (wanted + bytes > kPinnedEnd) {
      next.store(kPinnedBegin, std::memory_order_relaxed);
      continue;
    }
    void* got = mmap(reinterpret_cast<void*>(wanted), bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (value_of(got) == wanted) return got;
    if (got != MAP_FAILED) munmap(got, bytes);
  }
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

// Memory that the worker has, too; nullptr if it cannot be shared. Small copies fit into the call anyway.
void* map_shared(size_t bytes) {
  void* memory = bytes > limits::kInlineBytes ? SharedMemory::instance().map(bytes) : nullptr;
  if (!memory) return nullptr;
  if (Mirrors::instance().add_shared(value_of(memory), bytes) == CUDA_SUCCESS) {
    madvise(memory, bytes, MADV_POPULATE_WRITE);  // pinned memory is there; older kernels fault it in page by page
    return memory;
  }
  SharedMemory::instance().unmap(memory);
  return nullptr;
}

void unmap(void* memory, size_t bytes) {
  if (SharedMemory::instance().holds(memory)) {
    SharedMemory::instance().unmap(memory);
  } else {
    munmap(memory, bytes);
  }
}

size_t page_up(size_t bytes) {
  static const size_t page = size_t(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) & ~(page - 1);
}

// Before pinned memory goes away: what reads or writes it is finished, as with the driver's own.
CUresult finish_transfers(const Range& range) {
  Session& session = *Session::get();
  bool busy = range.mirrored || session.sends_outstanding() || session.landing().overlaps(reinterpret_cast<void*>(range.base), range.bytes);
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
    return CUDA_SUCCESS;
  }
  if (bytesize > SIZE_MAX / 2) return CUDA_ERROR_OUT_OF_MEMORY;
  Range range;
  void* memory = map_shared(page_up(bytesize));
  range.mirrored = memory != nullptr;
  if (!memory) memory = map_pinned(page_up(bytesize));
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  range.kind = Range::Kind::kPinned;
  range.base = value_of(memory);
  range.bytes = bytesize;
  range.context = current_context();
  range.device = context->device;
  range.flags = Flags;
  state().ranges.insert(range);
  Session::get()->link().bulk().remember(memory, bytesize);
  if ((Flags & CU_MEMHOSTALLOC_DEVICEMAP) || Session::get()->link().limits().same_process) {
    if (CUresult result = reach(range.base); result != CUDA_SUCCESS) {
      state().ranges.remove(range.base, Range::Kind::kPinned);
      Session::get()->link().bulk().forget(memory);
      unmap(memory, page_up(bytesize));
      return result;
    }
  }
  *pp = memory;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemAllocHost_v2(void** pp, size_t bytesize) noexcept { return handle_cuMemHostAlloc(pp, bytesize, 0); }

CUresult handle_cuMemFreeHost(void* p) noexcept {
  if (!p) return CUDA_SUCCESS;
  auto range = state().ranges.find(value_of(p));
  if (!range || range->base != value_of(p) || range->kind != Range::Kind::kPinned) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = finish_transfers(*range); result == CUDA_ERROR_DEINITIALIZED) return result;
  range = state().ranges.remove(value_of(p), Range::Kind::kPinned);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  Session::get()->link().bulk().forget(p);
  if (range->mirrored) Mirrors::instance().remove(range->base);
  unmap(p, page_up(range->bytes));
  return CUDA_SUCCESS;
}

CUresult handle_cuMemHostRegister_v2(void* p, size_t bytesize, unsigned int Flags) noexcept {
  constexpr unsigned kKnown = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_IOMEMORY |
                              CU_MEMHOSTREGISTER_READ_ONLY;
  if (!p || bytesize == 0 || (Flags & ~kKnown)) return CUDA_ERROR_INVALID_VALUE;
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  // The codes are measured (580.159.04).
  if (Flags & CU_MEMHOSTREGISTER_IOMEMORY) return CUDA_ERROR_INVALID_VALUE;
  if (bytesize - 1 > ~value_of(p)) return CUDA_ERROR_INVALID_VALUE;
  for (uint64_t address : {value_of(p), value_of(p) + bytesize - 1}) {
    auto known = state().ranges.find(address);
    if (known) return known->kind == Range::Kind::kRegistered ? CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED : CUDA_ERROR_INVALID_VALUE;
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
  if (Flags & CU_MEMHOSTREGISTER_DEVICEMAP) {
    if (CUresult result = reach(range.base); result != CUDA_SUCCESS) {
      state().ranges.remove(range.base, Range::Kind::kRegistered);
      Session::get()->link().bulk().forget(p);
      return result;
    }
  }
  return CUDA_SUCCESS;
}

CUresult handle_cuMemHostUnregister(void* p) noexcept {
  if (!p) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(value_of(p));
  if (!range) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  if (range->base != value_of(p) || range->kind != Range::Kind::kRegistered) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = finish_transfers(*range); result == CUDA_ERROR_DEINITIALIZED) return result;
  range = state().ranges.remove(value_of(p), Range::Kind::kRegistered);
  Session::get()->link().bulk().forget(p);
  if (range && range->mirrored) Mirrors::instance().remove(range->base);
  return CUDA_SUCCESS;
}

CUresult handle_cuMemHostGetDevicePointer_v2(CUdeviceptr* pdptr, void* p, unsigned int Flags) noexcept {
  if (!pdptr || !p || Flags != 0) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(value_of(p));
  if (!range || !range->host()) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = reach(value_of(p)); result != CUDA_SUCCESS) return result;
  *pdptr = value_of(p);
  return CUDA_SUCCESS;
}

CUresult handle_cuMemHostGetFlags(unsigned int* pFlags, void* p) noexcept {
  if (!pFlags || !p) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(value_of(p));
  if (!range || range->kind == Range::Kind::kDevice) return CUDA_ERROR_INVALID_VALUE;
  *pFlags = range->flags | CU_MEMHOSTALLOC_DEVICEMAP;
  return CUDA_SUCCESS;
}

}  // namespace bf::client
