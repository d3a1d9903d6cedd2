#include <sys/mman.h>

#include <cstring>

#include "base/status.h"
#include "softgpu/driver/context.h"
#include "softgpu/driver/device.h"
#include "softgpu/driver/memory.h"

namespace bf::softgpu {
namespace {

// Away from where Linux puts programs, heaps, stacks and libraries, so that a Backfield client can reserve the same
// addresses in its own process.
constexpr uint64_t kDeviceSpace = 0x4000'0000'0000;
constexpr uint64_t kDeviceSpan = 0x100'0000'0000;  // 1 TiB of addresses per device
constexpr uint64_t kLargeBytes = 1 << 20;

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

// Adds a free range to `ranges` and joins it with its neighbours, never across a multiple of `wall` (0: no walls).
void add_range(std::map<uint64_t, uint64_t>& ranges, uint64_t begin, uint64_t bytes, uint64_t wall) {
  auto next = ranges.lower_bound(begin);
  if (next != ranges.end() && next->first == begin + bytes && (wall == 0 || next->first % wall != 0)) {
    bytes += next->second;
    next = ranges.erase(next);
  }
  if (next != ranges.begin() && (wall == 0 || begin % wall != 0)) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == begin) {
      previous->second += bytes;
      return;
    }
  }
  ranges.emplace(begin, bytes);
}

// Takes `bytes` from the smallest range that fits; 0: none.
uint64_t take_range(std::map<uint64_t, uint64_t>& ranges, uint64_t bytes) {
  auto best = ranges.end();
  for (auto it = ranges.begin(); it != ranges.end(); ++it)
    if (it->second >= bytes && (best == ranges.end() || it->second < best->second)) best = it;
  if (best == ranges.end()) return 0;
  auto [begin, available] = *best;
  ranges.erase(best);
  if (available > bytes) ranges.emplace(begin + bytes, available - bytes);
  return begin;
}

}  // namespace

DeviceMemory::DeviceMemory(int ordinal, uint64_t total_bytes, uint64_t limit_bytes)
    : total_blocks_(total_bytes / kBlockBytes), limit_blocks_(limit_bytes / kBlockBytes), span_(kDeviceSpan) {
  void* wanted = (void*)(kDeviceSpace + uint64_t(ordinal) * kDeviceSpan);
  void* got = mmap(wanted, span_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got == MAP_FAILED || got != wanted) {
    if (got != MAP_FAILED) munmap(got, span_);
    span_ = total_blocks_ * kBlockBytes * 2 + kBlockBytes;
    got = mmap(nullptr, span_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) {
      span_ = 0;
      return;  // no addresses: every allocation says "out of memory"
    }
  }
  base_ = round_up(uint64_t(got), kBlockBytes);
  free_ranges_.emplace(base_, (uint64_t(got) + span_ - base_) / kBlockBytes * kBlockBytes);
}

bool DeviceMemory::charge_blocks(uint64_t blocks) {
  uint64_t limit = std::min(total_blocks_, limit_blocks_);
  if (blocks > limit || used_blocks_ > limit - blocks) return false;
  used_blocks_ += blocks;
  return true;
}

uint64_t DeviceMemory::take_blocks(uint64_t blocks) {
  if (!charge_blocks(blocks)) return 0;
  uint64_t address = take_range(free_ranges_, blocks * kBlockBytes);
  if (address && mprotect((void*)address, blocks * kBlockBytes, PROT_READ | PROT_WRITE) != 0) {
    add_range(free_ranges_, address, blocks * kBlockBytes, 0);
    address = 0;
  }
  if (!address) used_blocks_ -= blocks;
  return address;
}

// A fresh mapping in place of the old one drops the bytes, so the next owner reads zeros.
void DeviceMemory::give_blocks(uint64_t address, uint64_t blocks) {
  mmap((void*)address, blocks * kBlockBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  add_range(free_ranges_, address, blocks * kBlockBytes, 0);
  used_blocks_ -= blocks;
}

uint64_t DeviceMemory::allocate(uint64_t bytes, bool managed) {
  if (bytes == 0 || bytes > total_bytes()) return 0;
  std::lock_guard lock(mutex_);
  uint64_t address;
  if (bytes >= kLargeBytes) {
    bytes = round_up(bytes, kBlockBytes);
    address = take_blocks(bytes / kBlockBytes);
  } else {
    bytes = round_up(bytes, kGranule);
    address = take_range(small_free_[managed], bytes);
    if (!address) {
      address = take_blocks(1);
      if (address) small_free_[managed].emplace(address + bytes, kBlockBytes - bytes);
      if (address && managed) managed_blocks_.insert(address);
    }
  }
  if (address) allocations_[address] = bytes;
  return address;
}

void DeviceMemory::release(uint64_t address) {
  std::lock_guard lock(mutex_);
  auto it = allocations_.find(address);
  if (it == allocations_.end()) return;
  uint64_t bytes = it->second;
  allocations_.erase(it);
  if (bytes >= kBlockBytes) return give_blocks(address, bytes / kBlockBytes);
  memset((void*)address, 0, bytes);
  uint64_t block = address / kBlockBytes * kBlockBytes;
  auto& free = small_free_[managed_blocks_.count(block)];
  add_range(free, address, bytes, kBlockBytes);
  auto whole = free.find(block);
  if (whole != free.end() && whole->second == kBlockBytes) {
    free.erase(whole);
    managed_blocks_.erase(block);
    give_blocks(block, 1);
  }
}

bool DeviceMemory::charge(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  return charge_blocks(round_up(bytes, kBlockBytes) / kBlockBytes);
}

void DeviceMemory::uncharge(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  used_blocks_ -= round_up(bytes, kBlockBytes) / kBlockBytes;
}

uint64_t DeviceMemory::free_bytes() const {
  std::lock_guard lock(mutex_);
  return (total_blocks_ - used_blocks_) * kBlockBytes;
}

AddressSpace& AddressSpace::instance() {
  static AddressSpace* space = new AddressSpace;
  return *space;
}

bool AddressSpace::insert(AllocationRef allocation) {
  std::unique_lock lock(mutex_);
  auto next = ranges_.lower_bound(allocation->begin);
  if (next != ranges_.end() && next->second->begin < allocation->end()) return false;
  if (next != ranges_.begin() && std::prev(next)->second->end() > allocation->begin) return false;
  allocation->buffer_id = ++last_buffer_id_;
  ranges_.emplace_hint(next, allocation->begin, std::move(allocation));
  return true;
}

AllocationRef AddressSpace::find(uint64_t address) const {
  std::shared_lock lock(mutex_);
  auto it = ranges_.upper_bound(address);
  if (it == ranges_.begin()) return nullptr;
  --it;
  return address < it->second->end() ? it->second : nullptr;
}

AllocationRef AddressSpace::remove(uint64_t address, const std::function<bool(const Allocation&)>& predicate) {
  std::unique_lock lock(mutex_);
  auto it = ranges_.find(address);
  if (it == ranges_.end() || !predicate(*it->second)) return nullptr;
  AllocationRef allocation = std::move(it->second);
  allocation->gone = true;
  ranges_.erase(it);
  return allocation;
}

std::vector<AllocationRef> AddressSpace::remove_if(const std::function<bool(const Allocation&)>& predicate) {
  std::unique_lock lock(mutex_);
  std::vector<AllocationRef> removed;
  for (auto it = ranges_.begin(); it != ranges_.end();) {
    if (predicate(*it->second)) {
      it->second->gone = true;
      removed.push_back(std::move(it->second));
      it = ranges_.erase(it);
    } else {
      ++it;
    }
  }
  return removed;
}

std::vector<AllocationRef> AddressSpace::overlapping(uint64_t begin, uint64_t end) const {
  std::shared_lock lock(mutex_);
  std::vector<AllocationRef> found;
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin() && std::prev(it)->second->end() > begin) --it;
  for (; it != ranges_.end() && it->second->begin < end; ++it) found.push_back(it->second);
  return found;
}

AllocationRef allocate_memory(Context& context, uint64_t bytes, MemoryKind kind, uint32_t flags) {
  uint64_t address = context.device->memory.allocate(bytes, kind == MemoryKind::kManaged);
  if (!address) return nullptr;
  auto allocation = std::make_shared<Allocation>();
  allocation->begin = address;
  allocation->bytes = bytes;
  allocation->kind = kind;
  allocation->device = context.device->ordinal;
  allocation->context_id = context.id;
  allocation->context = context.handle;
  allocation->flags = flags;
  allocation->visible = kind != MemoryKind::kArray;
  BF_CHECK(AddressSpace::instance().insert(allocation));
  return allocation;
}

void release_memory(const Allocation& allocation) {
  switch (allocation.kind) {
    case MemoryKind::kPinned:
      munmap((void*)allocation.begin, round_up(allocation.bytes, 4096));
      break;
    case MemoryKind::kHeap:
      munmap((void*)allocation.begin, allocation.bytes);
      break;
    case MemoryKind::kRegistered:
    case MemoryKind::kMapped:
      break;  // not ours to release
    default:
      device_at(allocation.device)->memory.release(allocation.begin);
  }
}

}  // namespace bf::softgpu
