// Device memory and the address space. Every device owns one reserved range of addresses, handed out in blocks of 2 MiB
// as a GPU does: allocations of 1 MiB and more take whole blocks, smaller ones are packed into shared blocks. The
// device's memory is charged by the block. Fresh memory reads as zeros.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "softgpu/driver/cuda_api.h"

namespace bf::softgpu {

inline constexpr uint64_t kBlockBytes = 2 << 20;
inline constexpr uint64_t kGranule = 512;  // small allocations are multiples of it, and so aligned

// The memory of one device. Thread-safe.
class DeviceMemory {
 public:
  DeviceMemory(int ordinal, uint64_t total_bytes, uint64_t limit_bytes);
  // 0: out of memory. Managed memory shares no block with other memory: the host uses it, too.
  uint64_t allocate(uint64_t bytes, bool managed = false);
  void release(uint64_t address);
  // Memory without an address: contexts, physical memory that is mapped later. Whole blocks; false: out of memory.
  bool charge(uint64_t bytes);
  void uncharge(uint64_t bytes);
  uint64_t total_bytes() const { return total_blocks_ * kBlockBytes; }
  uint64_t free_bytes() const;

 private:
  bool charge_blocks(uint64_t blocks);
  uint64_t take_blocks(uint64_t blocks);
  void give_blocks(uint64_t address, uint64_t blocks);

  mutable std::mutex mutex_;
  const uint64_t total_blocks_;
  const uint64_t limit_blocks_;  // fault injection: nothing past this many
  uint64_t used_blocks_ = 0;
  uint64_t base_ = 0, span_ = 0;
  std::map<uint64_t, uint64_t> free_ranges_;  // address -> bytes, coalesced
  std::map<uint64_t, uint64_t> small_free_[2];  // free pieces inside shared blocks, coalesced within their block; managed
  std::set<uint64_t> managed_blocks_;           // shared blocks of managed memory
  std::unordered_map<uint64_t, uint64_t> allocations_;  // address -> bytes, rounded
};

enum class MemoryKind : uint8_t { kDevice, kPool, kManaged, kPinned, kRegistered, kVariable, kMapped, kArray, kHeap };

struct Context;
struct MemoryPool;
struct PhysicalMemory;

// A range of addresses that CUDA knows. Immutable after it entered the address space, but for the atomics.
struct Allocation {
  uint64_t begin = 0;
  uint64_t bytes = 0;
  MemoryKind kind = MemoryKind::kDevice;
  int device = 0;
  uint64_t context_id = 0;
  CUcontext context = nullptr;
  uint32_t flags = 0;
  uint64_t buffer_id = 0;
  std::shared_ptr<MemoryPool> pool;
  std::shared_ptr<PhysicalMemory> physical;
  bool visible = true;       // kernels may reach it
  bool writable = true;      // kernels may write it
  bool graph_owned = false;  // lives as long as a graph: frees do not end it
  std::atomic<bool> sync_memops{false};
  std::atomic<bool> gone{false};     // it left the address space
  std::atomic<bool> freeing{false};  // a stream-ordered free is queued

  uint64_t end() const { return begin + bytes; }
  bool host() const { return kind == MemoryKind::kPinned || kind == MemoryKind::kRegistered; }
};
using AllocationRef = std::shared_ptr<Allocation>;

// All ranges of the process. Thread-safe.
class AddressSpace {
 public:
  static AddressSpace& instance();
  // False: it overlaps a known range.
  bool insert(AllocationRef allocation);
  // The allocation that holds `address`; nullptr: none.
  AllocationRef find(uint64_t address) const;
  // The allocation that begins at `address` and satisfies the predicate, removed; nullptr: none.
  AllocationRef remove(uint64_t address, const std::function<bool(const Allocation&)>& predicate);
  std::vector<AllocationRef> remove_if(const std::function<bool(const Allocation&)>& predicate);
  // All allocations that meet [begin, end).
  std::vector<AllocationRef> overlapping(uint64_t begin, uint64_t end) const;

 private:
  mutable std::shared_mutex mutex_;
  std::map<uint64_t, AllocationRef> ranges_;
  uint64_t last_buffer_id_ = 0;
};

struct Device;
// Allocates from `device`, enters the range into the address space and returns it; nullptr: out of memory.
AllocationRef allocate_memory(Context& context, uint64_t bytes, MemoryKind kind, uint32_t flags = 0);
// Gives the bytes of a range that left the address space back to the device or to the operating system.
void release_memory(const Allocation& allocation);

}  // namespace bf::softgpu
