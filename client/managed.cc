// Managed memory: at one address here and on the worker, where it is device memory; mirrored (client/mirrors.h). Hints about
// where it should lie are remembered and answered, and mean nothing else here: the bytes are on both sides.
#include "client/managed.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "api/remote.h"
#include "base/log.h"
#include "client/contexts.h"
#include "client/mirrors.h"
#include "proto/abi/managed_hints.h"
#include "proto/mirror.h"

namespace bf::client {

namespace {

constexpr uint64_t kBlock = 2 << 20;          // what the worker's driver maps
constexpr uint64_t kLarge = 1 << 20;          // from here on, blocks of its own
constexpr uint64_t kGranule = 512;            // of small allocations, as the driver's own (measured, 580.159.04)
// Addresses that no system gives to anything else, in this process and in the worker.
constexpr uint64_t kBegin = 0x6400'0000'0000, kEnd = 0x6800'0000'0000;
constexpr int kAttempts = 16;

bool map_at(uint64_t address, uint64_t bytes) {
  void* const wanted = reinterpret_cast<void*>(address);
  void* const got = mmap(wanted, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (got == MAP_FAILED) return false;
  if (got != wanted) {  // a kernel that does not know the flag
    munmap(got, bytes);
    return false;
  }
  madvise(got, bytes, MADV_DONTFORK);  // as with the driver's own
  return true;
}

// Blocks of managed memory, each mirrored as a whole; small allocations share one.
class Heap {
 public:
  CUresult allocate(uint64_t bytes, uint64_t* address) {
    std::lock_guard guard(mutex_);
    if (bytes >= kLarge) return make_block((bytes + kBlock - 1) & ~(kBlock - 1), address);
    bytes = (bytes + kGranule - 1) & ~(kGranule - 1);
    const uint64_t context = current_context();
    for (auto& [base, block] : shared_) {
      if (block.context != context) continue;
      if (take(block, bytes, address)) return CUDA_SUCCESS;
    }
    uint64_t base = 0;
    if (CUresult result = make_block(kBlock, &base); result != CUDA_SUCCESS) return result;
    Shared& block = shared_[base];
    block.context = context;
    block.free[base] = kBlock;
    take(block, bytes, address);
    return CUDA_SUCCESS;
  }

  void free(uint64_t address, uint64_t bytes) {
    std::lock_guard guard(mutex_);
    const uint64_t base = address & ~(kBlock - 1);
    const auto found = shared_.find(base);
    if (found == shared_.end()) return drop_block(address, (bytes + kBlock - 1) & ~(kBlock - 1));
    auto& free = found->second.free;
    auto piece = free.emplace(address, (bytes + kGranule - 1) & ~(kGranule - 1)).first;
    if (auto next = std::next(piece); next != free.end() && piece->first + piece->second == next->first) {
      piece->second += next->second;
      free.erase(next);
    }
    if (piece != free.begin()) {
      if (auto before = std::prev(piece); before->first + before->second == piece->first) {
        before->second += piece->second;
        free.erase(piece);
      }
    }
    if (free.begin()->second != kBlock) return;
    shared_.erase(found);
    drop_block(base, kBlock);
  }

  // The blocks of a context that ended are the worker's no longer.
  void forget_context(uint64_t context) {
    std::lock_guard guard(mutex_);
    std::erase_if(shared_, [&](const auto& entry) {
      if (entry.second.context != context) return false;
      Mirrors::instance().forget(entry.first);
      return true;
    });
  }

 private:
  struct Shared {
    uint64_t context = 0;
    std::map<uint64_t, uint64_t> free;  // address -> bytes, coalesced
  };

  static bool take(Shared& block, uint64_t bytes, uint64_t* address) {
    for (auto piece = block.free.begin(); piece != block.free.end(); ++piece) {
      if (piece->second < bytes) continue;
      *address = piece->first;
      if (piece->second > bytes) block.free[piece->first + bytes] = piece->second - bytes;
      block.free.erase(*address);
      return true;
    }
    return false;
  }

  CUresult make_block(uint64_t bytes, uint64_t* address) {
    if (bytes > (kEnd - kBegin) / 2) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      if (next_ + bytes > kEnd) next_ = kBegin;
      const uint64_t wanted = next_;
      next_ += (bytes + kManagedStep - 1) & ~(kManagedStep - 1);
      if (!map_at(wanted, bytes)) continue;
      result = Mirrors::instance().add(wanted, bytes, kMirrorManaged);
      if (result == CUDA_SUCCESS) {
        *address = wanted;
        return result;
      }
      munmap(reinterpret_cast<void*>(wanted), bytes);
      if (result != CUDA_ERROR_ALREADY_MAPPED) return result;
    }
    return result == CUDA_ERROR_ALREADY_MAPPED ? CUDA_ERROR_OUT_OF_MEMORY : result;
  }

  void drop_block(uint64_t base, uint64_t bytes) {
    Mirrors::instance().remove(base);
    munmap(reinterpret_cast<void*>(base), bytes);
  }

  std::mutex mutex_;
  uint64_t next_ = kBegin;
  std::map<uint64_t, Shared> shared_;
};

Heap& heap() {
  static Heap* const made = new Heap;
  return *made;
}

constexpr uint64_t kPage = 4096;
uint64_t page_begin(uint64_t address) { return address & ~(kPage - 1); }
uint64_t page_end(uint64_t address) { return page_begin(address + kPage - 1); }

bool is_managed(CUdeviceptr address, size_t count) {
  auto range = state().ranges.find(address);
  return range && range->kind == Range::Kind::kManaged && count > 0 && count <= range->base + range->bytes - address;
}

abi::ManagedHints& hints() {
  static auto* const made = new abi::ManagedHints([](int device) { return device_snapshot(device) != nullptr; });
  return *made;
}

CUresult check_stream(CUstream stream) {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  return need_stream(stream);
}

}  // namespace

// --- Allocation ------------------------------------------------------------------------------------------------------------

CUresult handle_cuMemAllocManaged(CUdeviceptr* dptr, size_t bytesize, unsigned int flags) noexcept {
  if (!dptr || bytesize == 0 || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)) return CUDA_ERROR_INVALID_VALUE;
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  if (bytesize > kEnd - kBegin) return CUDA_ERROR_OUT_OF_MEMORY;
  Range range;
  if (CUresult result = heap().allocate(bytesize, &range.base); result != CUDA_SUCCESS) return result;
  range.kind = Range::Kind::kManaged;
  range.bytes = bytesize;
  range.context = current_context();
  range.device = context->device;
  range.flags = flags;
  range.mirrored = true;
  state().ranges.insert(range);
  hints().forget(range.base, bytesize);
  *dptr = range.base;
  return CUDA_SUCCESS;
}

CUresult free_managed(const Range& range, CUdeviceptr address) {
  if (range.base != address || !range.owned) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = handle_cuCtxSynchronize(); result != CUDA_SUCCESS) return result;
  if (!state().ranges.remove(address, Range::Kind::kManaged)) return CUDA_ERROR_INVALID_VALUE;
  CurrentContext owner(range.context);
  heap().free(address, range.bytes);
  return CUDA_SUCCESS;
}

CUresult hold_variable(CUdeviceptr address, size_t bytes) {
  if (Session::get()->link().limits().same_process) return CUDA_SUCCESS;  // it is here
  // Variables share pages. The pages stay for the life of the process: the driver uses the addresses again.
  static auto* const pages = new std::set<uint64_t>;
  static std::mutex mutex;
  {
    std::lock_guard guard(mutex);
    for (uint64_t page = page_begin(address); page < page_end(address + bytes); page += kPage) {
      if (pages->count(page)) continue;
      if (!map_at(page, kPage)) {
        BF_WARN("the address of a managed variable, {:#x}, is taken in this process; start the program again", page);
        return CUDA_ERROR_OUT_OF_MEMORY;
      }
      pages->insert(page);
    }
  }
  return Mirrors::instance().add(address, bytes, kMirrorVariable);
}

// --- Hints -----------------------------------------------------------------------------------------------------------------

CUresult handle_cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location, unsigned int flags,
                                      CUstream hStream) noexcept {
  if (CUresult result = check_stream(hStream); result != CUDA_SUCCESS) return result;
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = hints().check_prefetch(location); result != CUDA_SUCCESS) return result;
  if (!is_managed(devPtr, count)) return CUDA_ERROR_INVALID_VALUE;
  hints().prefetch(devPtr, count, location);
  return CUDA_SUCCESS;
}

CUresult handle_cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream) noexcept {
  return handle_cuMemPrefetchAsync_v2(devPtr, count, abi::location_of(dstDevice), 0, hStream);
}

CUresult handle_cuMemPrefetchBatchAsync(CUdeviceptr* dptrs, size_t* sizes, size_t count, CUmemLocation* prefetchLocs,
                                        size_t* prefetchLocIdxs, size_t numPrefetchLocs, unsigned long long flags,
                                        CUstream hStream) noexcept {
  if (CUresult result = check_stream(hStream); result != CUDA_SUCCESS) return result;
  if (!dptrs || !sizes || count == 0 || !prefetchLocs || !prefetchLocIdxs || numPrefetchLocs == 0 ||
      numPrefetchLocs > count || prefetchLocIdxs[0] != 0 || flags != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (bool act : {false, true}) {
    for (size_t i = 0; i < count; ++i) {
      const size_t* behind = std::upper_bound(prefetchLocIdxs, prefetchLocIdxs + numPrefetchLocs, i);
      const CUmemLocation& location = prefetchLocs[behind - prefetchLocIdxs - 1];
      if (act) {
        hints().prefetch(dptrs[i], sizes[i], location);
        continue;
      }
      if (CUresult result = hints().check_prefetch(location); result != CUDA_SUCCESS) return result;
      if (!is_managed(dptrs[i], sizes[i])) return CUDA_ERROR_INVALID_VALUE;
    }
  }
  return CUDA_SUCCESS;
}

// What is discarded may read as anything, also as what it was.
CUresult handle_cuMemDiscardBatchAsync(CUdeviceptr* dptrs, size_t* sizes, size_t count, unsigned long long flags,
                                       CUstream hStream) noexcept {
  if (CUresult result = check_stream(hStream); result != CUDA_SUCCESS) return result;
  if (!dptrs || !sizes || count == 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; ++i)
    if (!is_managed(dptrs[i], sizes[i])) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUresult handle_cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr* dptrs, size_t* sizes, size_t count, CUmemLocation* prefetchLocs,
                                                  size_t* prefetchLocIdxs, size_t numPrefetchLocs, unsigned long long flags,
                                                  CUstream hStream) noexcept {
  return handle_cuMemPrefetchBatchAsync(dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs, flags, hStream);
}

CUresult handle_cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUmemLocation location) noexcept {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (!is_managed(devPtr, count)) return CUDA_ERROR_INVALID_VALUE;
  return hints().advise(devPtr, count, advice, location);
}

CUresult handle_cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device) noexcept {
  return handle_cuMemAdvise_v2(devPtr, count, advice, abi::location_of(device));
}

CUresult handle_cuMemRangeGetAttribute(void* data, size_t dataSize, CUmem_range_attribute attribute, CUdeviceptr devPtr,
                                       size_t count) noexcept {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (!data || !is_managed(devPtr, count)) return CUDA_ERROR_INVALID_VALUE;
  return hints().attribute(data, dataSize, attribute, devPtr, count);
}

CUresult handle_cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t length, unsigned int flags) noexcept {
  if (CUresult result = check_stream(hStream); result != CUDA_SUCCESS) return result;
  if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST && flags != CU_MEM_ATTACH_SINGLE) return CUDA_ERROR_INVALID_VALUE;
  if (flags == CU_MEM_ATTACH_SINGLE && value_of(hStream) <= 2) return CUDA_ERROR_INVALID_VALUE;
  auto range = state().ranges.find(dptr);
  if (!range || range->kind != Range::Kind::kManaged || range->base != dptr) return CUDA_ERROR_INVALID_VALUE;
  return length == 0 || length == range->bytes ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

void forget_managed(uint64_t context) { heap().forget_context(context); }

}  // namespace bf::client
