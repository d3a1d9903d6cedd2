#include "transport/rdma_memory.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <atomic>
#include <cerrno>
#include <cstring>

namespace bf::transport::rdma {
namespace {

constexpr size_t kLargePage = 2 << 20;

std::atomic<uint64_t> g_regions{0}, g_bytes{0};

}  // namespace

MemoryUse memory_use() { return {g_regions, g_bytes}; }

Status cannot_register(size_t bytes, int error) {
  std::string what = "cannot pin " + std::to_string((bytes + 1023) >> 10) + " KiB for RDMA (" + strerror(error) + ")";
  rlimit limit{};
  bool limited = getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  if (error != ENOMEM && error != EAGAIN && error != EPERM) limited = false;
  if (limited)
    what += ": this process may lock " + std::to_string(limit.rlim_cur >> 10) +
            " KiB; raise it (ulimit -l unlimited, LimitMEMLOCK=infinity in a service, memlock in limits.conf)";
  return {StatusCode::kExhausted, what};
}

Region::Region(ibv_mr* mr, size_t bytes) : mr_(mr), bytes_(bytes) {
  g_regions++;
  g_bytes += bytes;
}

Region::~Region() {
  loaded_verbs().ibv_dereg_mr(mr_);
  g_regions--;
  g_bytes -= bytes_;
}

Result<std::unique_ptr<Region>> Region::make(ibv_pd* pd, void* data, size_t bytes, int access) {
  ibv_mr* mr = loaded_verbs().ibv_reg_mr(pd, data, bytes, access);
  if (!mr) return cannot_register(bytes, errno);
  return std::unique_ptr<Region>(new Region(mr, bytes));
}

Result<std::unique_ptr<Region>> Region::make_device(ibv_pd* pd, const void* data, size_t bytes, int dmabuf) {
  if (!loaded_verbs().ibv_reg_dmabuf_mr) return Status(StatusCode::kUnavailable, "this host's libibverbs knows no dma-buf");
  ibv_mr* mr = loaded_verbs().ibv_reg_dmabuf_mr(pd, 0, bytes, uint64_t(data), dmabuf, 0);
  if (!mr) return errno_status("the RDMA device cannot read GPU memory", errno);
  return std::unique_ptr<Region>(new Region(mr, bytes));
}

size_t Buffer::rounded(size_t bytes) {
  const size_t page = bytes < kLargePage ? 4096 : kLargePage;
  return (bytes + page - 1) / page * page;
}

Result<std::unique_ptr<Buffer>> Buffer::make(ibv_pd* pd, size_t bytes, int access) {
  // Large pages: less to pin, and less for the device to look up.
  const size_t page = bytes < kLargePage ? 4096 : kLargePage;
  bytes = rounded(bytes);
  const size_t reserved = bytes + page;
  void* memory = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return errno_status("no memory for RDMA buffers", errno);
  auto* start = static_cast<std::byte*>(memory);
  auto* data = start + (page - uintptr_t(memory) % page) % page;
  if (data > start) munmap(start, size_t(data - start));
  if (size_t rest = size_t(start + reserved - data) - bytes; rest > 0) munmap(data + bytes, rest);
  madvise(data, bytes, MADV_DONTFORK);
  madvise(data, bytes, MADV_HUGEPAGE);
  std::unique_ptr<Buffer> buffer(new Buffer(data, bytes));
  auto region = Region::make(pd, data, bytes, access);
  if (!region.ok()) return region.status();
  buffer->region_ = std::move(*region);
  return buffer;
}

Buffer::~Buffer() {
  region_.reset();
  munmap(data_, bytes_);
}

void RegionCache::remember(const void* data, size_t bytes) {
  std::lock_guard lock(mutex_);
  Range& range = ranges_[uintptr_t(data)];
  if (range.bytes == bytes) return;
  drop(range);
  range = {};
  range.bytes = bytes;
}

void RegionCache::forget(const void* data) {
  std::lock_guard lock(mutex_);
  auto found = ranges_.find(uintptr_t(data));
  if (found == ranges_.end()) return;
  drop(found->second);
  ranges_.erase(found);
}

bool RegionCache::remember_device(const void* data, size_t bytes, int dmabuf) {
  auto region = Region::make_device(pd_, data, bytes, dmabuf);
  if (!region.ok()) return false;
  std::lock_guard lock(mutex_);
  Range range;
  range.bytes = bytes;
  range.kept = true;
  range.region = std::move(*region);
  return ranges_.emplace(uintptr_t(data), std::move(range)).second;
}

std::shared_ptr<const Region> RegionCache::find(const void* data, size_t bytes) {
  std::lock_guard lock(mutex_);
  auto found = ranges_.upper_bound(uintptr_t(data));
  if (found == ranges_.begin()) return nullptr;
  --found;
  Range& range = found->second;
  size_t offset = uintptr_t(data) - found->first;
  if (offset > range.bytes || bytes > range.bytes - offset || range.refused) return nullptr;
  if (range.kept) return range.region;
  if (range.region) {
    uses_.splice(uses_.begin(), uses_, range.use);
    return range.region;
  }
  if (range.bytes > most_bytes_ || !loaded_verbs().forks_copy) {
    range.refused = true;
    return nullptr;
  }
  while (registered_bytes_ + range.bytes > most_bytes_) drop(ranges_[uses_.back()]);
  auto region = Region::make(pd_, reinterpret_cast<void*>(found->first), range.bytes, 0);
  if (!region.ok()) {
    range.refused = true;
    return nullptr;
  }
  range.region = std::move(*region);
  range.use = uses_.insert(uses_.begin(), found->first);
  registered_bytes_ += range.bytes;
  return range.region;
}

void RegionCache::drop(Range& range) {
  if (!range.region || range.kept) return;
  uses_.erase(range.use);
  registered_bytes_ -= range.bytes;
  range.region.reset();
}

}  // namespace bf::transport::rdma
