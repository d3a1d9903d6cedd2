// Stream-ordered allocation. An address is given out at the call; the bytes return to the device when the stream
// reaches the free. Pools only count: what one keeps, up to its release threshold, is charged to the device and has no address.
#pragma once

#include <atomic>
#include <mutex>

#include "softgpu/driver/context.h"

namespace bf::softgpu {

struct MemoryPool {
  CUmemoryPool handle = nullptr;
  int device = 0;
  bool is_default = false;
  uint64_t max_bytes = 0;  // 0: no limit of its own
  std::atomic<uint64_t> used{0}, used_high{0};
  std::atomic<uint64_t> release_threshold{0};
  std::mutex mutex;   // of the next
  uint64_t kept = 0;  // whole blocks
  std::atomic<int> reuse_event{1}, reuse_opportunistic{1}, reuse_internal{1};
};
using MemoryPoolRef = std::shared_ptr<MemoryPool>;
using MemoryPoolRegistry = Registry<CUmemoryPool, MemoryPool, ObjectKind::kMemoryPool>;
MemoryPoolRegistry& memory_pools();

void make_default_pool(Device& device);
// Allocates from a pool and counts it; nullptr: out of memory.
AllocationRef allocate_from_pool(Context& context, const MemoryPoolRef& pool, uint64_t bytes);
void forget_pool_bytes(const Allocation& allocation);
// The end of a stream-ordered free.
void run_free(CUdeviceptr address);

}  // namespace bf::softgpu
