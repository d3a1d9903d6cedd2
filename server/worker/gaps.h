// What of a transfer has not been taken yet. Its blocks come over several connections, so not in order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

namespace bf::server {

class Gaps {
 public:
  explicit Gaps(uint64_t bytes) {
    if (bytes > 0) gaps_[0] = bytes;
  }

  bool none() const { return gaps_.empty(); }

  // Where the first gap begins, and how long it is, but `most` bytes at most. There must be one.
  std::pair<uint64_t, size_t> first(size_t most) const {
    const auto [begin, end] = *gaps_.begin();
    return {begin, size_t(std::min<uint64_t>(most, end - begin))};
  }

  // False, and nothing changes, if not all of it is in a gap: it lies outside of the transfer, or some has been taken before.
  bool take(uint64_t offset, size_t bytes) {
    auto gap = gaps_.upper_bound(offset);
    if (gap == gaps_.begin()) return false;
    --gap;
    const auto [begin, end] = *gap;
    if (offset >= end || bytes > end - offset) return false;
    if (begin < offset) {
      gap->second = offset;
    } else {
      gaps_.erase(gap);
    }
    if (bytes < end - offset) gaps_[offset + bytes] = end;
    return true;
  }

 private:
  std::map<uint64_t, uint64_t> gaps_;  // begin -> end
};

}  // namespace bf::server
