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

RangeTable::Map::const_iterator RangeTable::erase(Map::const_iterator range) {
  unreserve(range->second);
  if (range->second.mirrored) {
    mirrored_.fetch_sub(1, std::memory_order_relaxed);
  } else {
    update_hidden(range->second, -1);
  }
  return ranges_.erase(range);
}

uint64_t RangeTable::insert(Range range) {
  std::lock_guard guard(lock_);
  for (auto old = holding(range.base); old != ranges_.end(); old = holding(range.base)) erase(old);
  Map::const_iterator old = ranges_.lower_bound(range.base);
  while (old != ranges_.end() && old->first - range.base < range.bytes) old = erase(old);
  range.id = next_id_++;
  ranges_[range.base] = range;
  reserve(range);
  if (range.mirrored) mirrored_.fetch_add(1, std::memory_order_relaxed);
  update_hidden(range, 1);
  return range.id;
}

std::optional<Range> RangeTable::find(uint64_t address) const {
  std::lock_guard guard(lock_);
  auto found = holding(address);
  if (found == ranges_.end()) return std::nullopt;
  return found->second;
}

bool RangeTable::device_covers(uint64_t address, uint64_t bytes) const {
  std::lock_guard guard(lock_);
  auto found = holding(address);
  return found != ranges_.end() && found->second.reachable() && bytes <= found->second.base + found->second.bytes - address;
}

bool RangeTable::hidden(uint64_t address, bool copied_too) const {
  std::lock_guard guard(lock_);
  auto found = holding(address);
  return found != ranges_.end() && found->second.host() && !found->second.mirrored && (copied_too || !found->second.copied);
}

void RangeTable::note_copy(uint64_t address) {
  if (!may_be_hidden(address)) return;
  std::lock_guard guard(lock_);
  if (auto found = holding(address); found != ranges_.end()) ranges_[found->first].copied = true;
}

void RangeTable::set_mirrored(uint64_t base) {
  std::lock_guard guard(lock_);
  auto found = ranges_.find(base);
  if (found == ranges_.end() || found->second.mirrored) return;
  found->second.mirrored = true;
  mirrored_.fetch_add(1, std::memory_order_relaxed);
  update_hidden(found->second, -1);
}

// The bounds only grow while anything is hidden.
void RangeTable::update_hidden(const Range& range, int change) {
  if (!range.host() || (change > 0 && range.mirrored)) return;
  if (hidden_ == 0) {
    hidden_begin_.store(range.base, std::memory_order_relaxed);
    hidden_end_.store(range.base + range.bytes, std::memory_order_relaxed);
  }
  hidden_ += uint32_t(change);
  if (hidden_ == 0) {
    hidden_end_.store(0, std::memory_order_relaxed);
    hidden_begin_.store(0, std::memory_order_relaxed);
  } else if (change > 0) {
    if (range.base < hidden_begin_) hidden_begin_.store(range.base, std::memory_order_relaxed);
    if (range.base + range.bytes > hidden_end_) hidden_end_.store(range.base + range.bytes, std::memory_order_relaxed);
  }
}

std::optional<Range> RangeTable::remove(uint64_t base, Range::Kind kind) {
  std::lock_guard guard(lock_);
  auto found = ranges_.find(base);
  if (found == ranges_.end() || found->second.kind != kind) return std::nullopt;
  Range range = found->second;
  erase(found);
  return range;
}

std::vector<uint64_t> RangeTable::remove_context(uint64_t context) {
  std::vector<uint64_t> mirrored;
  std::lock_guard guard(lock_);
  for (Map::const_iterator range = ranges_.begin(); range != ranges_.end();) {
    if (range->second.context == context && range->second.reachable()) {
      if (range->second.mirrored) mirrored.push_back(range->first);
      range = erase(range);
    } else {
      ++range;
    }
  }
  return mirrored;
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
