// Memory that an RDMA device may touch: the landing ring with its headers, staging and message buffers, and the
// program's own pinned memory, registered when it is first sent from.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "transport/rdma_verbs.h"

namespace bf::transport::rdma {

// Sums of what this process has registered, for people and for tests.
struct MemoryUse {
  uint64_t regions = 0;
  uint64_t bytes = 0;
};
MemoryUse memory_use();

// Why the kernel refused to pin memory, in words that help.
Status cannot_register(size_t bytes, int error);

// A registered range of somebody else's memory.
class Region {
 public:
  static Result<std::unique_ptr<Region>> make(ibv_pd* pd, void* data, size_t bytes, int access);
  // Of a GPU: `dmabuf` begins at `data`, where only the device can read.
  static Result<std::unique_ptr<Region>> make_device(ibv_pd* pd, const void* data, size_t bytes, int dmabuf);
  ~Region();

  uint32_t local_key() const { return mr_->lkey; }
  uint32_t remote_key() const { return mr_->rkey; }

 private:
  Region(ibv_mr* mr, size_t bytes);
  ibv_mr* const mr_;
  const size_t bytes_;
};

// Page-aligned memory of our own, registered. A forked child does not get it.
class Buffer {
 public:
  static Result<std::unique_ptr<Buffer>> make(ibv_pd* pd, size_t bytes, int access);
  // What a buffer of that many bytes really takes: whole pages.
  static size_t rounded(size_t bytes);
  ~Buffer();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  const Region& region() const { return *region_; }

 private:
  Buffer(std::byte* data, size_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* const data_;
  const size_t bytes_;
  std::unique_ptr<Region> region_;
};

// Ranges that stay mapped until forget(): registered at their first use, the least recently used given up when their sum
// passes `most_bytes`. A range the kernel refuses is not tried again, and where forks would take the memory from children
// none is registered.
class RegionCache {
 public:
  RegionCache(ibv_pd* pd, uint64_t most_bytes) : pd_(pd), most_bytes_(most_bytes) {}

  void remember(const void* data, size_t bytes);
  // A GPU's memory: registered at once, and until forget(). False if it cannot be.
  bool remember_device(const void* data, size_t bytes, int dmabuf);
  void forget(const void* data);
  // The region that holds all of [data, data + bytes), or null. It lives as long as the pointer does.
  std::shared_ptr<const Region> find(const void* data, size_t bytes);

 private:
  struct Range {
    size_t bytes = 0;
    bool refused = false;
    bool kept = false;  // whatever the sum
    std::shared_ptr<Region> region;
    std::list<uintptr_t>::iterator use;  // valid while region is set and not kept
  };
  void drop(Range& range);

  ibv_pd* const pd_;
  const uint64_t most_bytes_;
  std::mutex mutex_;
  std::map<uintptr_t, Range> ranges_;
  std::list<uintptr_t> uses_;  // the latest first
  uint64_t registered_bytes_ = 0;
};

}  // namespace bf::transport::rdma
