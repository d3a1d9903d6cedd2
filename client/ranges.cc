#include "client/ranges.h"

#include <sys/mman.h>

#include <mutex>

namespace bf::client {

namespace {

constexpr uint64_t kBlock = 2 << 20;  // the driver backs memory by such blocks; small allocations share one

bool reserve_pages(uint64_t begin, uint64_t end) {
#ifndef MAP_FIXED_NOREPLACE
  constexpr int MAP_FIXED_NOREPLACE = 0x100000;
#endif
  void* got = mmap(reinterpret_cast<void*>(begin), end - begin, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got == MAP_FAILED) return false;
  if (got == reinterpret_cast<void*>(begin)) return true;
  munmap(got, end - begin);  // a kernel that does not know the flag
  return false;
}

}  // namespace

RangeTable::Map::const_iterator RangeTable::holding(uint64_t address) const {
  auto after = ranges_.upper_bound(address);
  if (after == ranges_.begin()) return ranges_.end();
  --after;
  return address - after->first < after->second.bytes ? after : ranges_.end();
}

uint64_t RangeTable::insert(Range range) {
  std::lock_guard guard(lock_);
  for (auto old = holding(range.base); old != ranges_.end(); old = holding(range.base)) {
    unreserve(old->second);
    ranges_.erase(old);
  }
  for (auto old = ranges_.lower_bound(range.base); old != ranges_.end() && old->first - range.base < range.bytes;) {
    unreserve(old->second);
    old = ranges_.erase(old);
  }
  range.id = next_id_++;
  ranges_[range.base] = range;
  reserve(range);
  return range.id;
}

std::optional<Range> RangeTable::find(uint64_t address) const {
  std::lock_guard guard(lock_);
  auto found = holding(address);
  if (found == ranges_.end()) return std::nullopt;
  return found->second;
}

bool RangeTable::covers(uint64_t address, uint64_t bytes, Range::Kind kind) const {
  std::lock_guard guard(lock_);
  auto found = holding(address);
  return found != ranges_.end() && found->second.kind == kind && bytes <= found->second.base + found->second.bytes - address;
}

std::optional<Range> RangeTable::remove(uint64_t base, Range::Kind kind) {
  std::lock_guard guard(lock_);
  auto found = ranges_.find(base);
  if (found == ranges_.end() || found->second.kind != kind) return std::nullopt;
  Range range = found->second;
  unreserve(range);
  ranges_.erase(found);
  return range;
}

void RangeTable::remove_context(uint64_t context) {
  std::lock_guard guard(lock_);
  for (auto range = ranges_.begin(); range != ranges_.end();) {
    if (range->second.context == context && range->second.kind == Range::Kind::kDevice) {
      unreserve(range->second);
      range = ranges_.erase(range);
    } else {
      ++range;
    }
  }
}

bool RangeTable::set_sync_memops(uint64_t address, bool on) {
  std::lock_guard guard(lock_);
  auto found = holding(address);
  if (found == ranges_.end()) return false;
  ranges_[found->first].sync_memops = on;
  return true;
}

// The blocks at both ends may be shared with neighbours and are counted; those between belong to this range alone.
void RangeTable::reserve(const Range& range) {
  if (range.kind != Range::Kind::kDevice || range.bytes == 0) return;
  uint64_t first = range.base / kBlock, last = (range.base + range.bytes - 1) / kBlock;
  auto share = [&](uint64_t block) {
    if (shared_blocks_[block]++ == 0 && reserve_pages(block * kBlock, (block + 1) * kBlock)) reserved_[block * kBlock] = true;
  };
  share(first);
  if (last != first) share(last);
  if (last > first + 1 && reserve_pages((first + 1) * kBlock, last * kBlock)) reserved_[(first + 1) * kBlock] = true;
}

void RangeTable::unreserve(const Range& range) {
  if (range.kind != Range::Kind::kDevice || range.bytes == 0) return;
  uint64_t first = range.base / kBlock, last = (range.base + range.bytes - 1) / kBlock;
  auto release = [&](uint64_t begin, uint64_t end) {
    if (reserved_.erase(begin)) munmap(reinterpret_cast<void*>(begin), end - begin);
  };
  auto unshare = [&](uint64_t block) {
    auto users = shared_blocks_.find(block);
    if (users == shared_blocks_.end() || --users->second > 0) return;
    shared_blocks_.erase(users);
    release(block * kBlock, (block + 1) * kBlock);
  };
  if (last > first + 1) release((first + 1) * kBlock, last * kBlock);
  unshare(first);
  if (last != first) unshare(last);
}

}  // namespace bf::client
