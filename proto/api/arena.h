// Memory of one call on the worker: decoded arguments, out parameters, the reply. Everything is freed together when
// the next call of the lane resets it. Bounded: alloc() returns nullptr past `limit`, which callers treat as a
// violation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "base/limits.h"

namespace bf::server {

class Arena {
 public:
  static constexpr size_t kAlign = alignof(std::max_align_t);
  static_assert(kAlign <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);

  // Body and reply of one frame, both decoded once (kBodyBytes each), with room for out arrays of the same size.
  static constexpr size_t kLimitBytes = 4 * limits::kBodyBytes;

  // Zeroed, aligned for any plain type, or to `align` (a power of two: CUtensorMap wants 128).
  void* alloc(size_t bytes, size_t align = kAlign) noexcept {
    if (align > kAlign) {
      const uintptr_t p = reinterpret_cast<uintptr_t>(bytes > kLimitBytes ? nullptr : alloc(bytes + align));
      return reinterpret_cast<void*>(p ? (p + align - 1) & ~(align - 1) : 0);
    }
    if (bytes > kLimitBytes) return nullptr;
    bytes = (bytes + kAlign - 1) & ~(kAlign - 1);
    if (bytes > kLimitBytes - used_) return nullptr;
    used_ += bytes;
    if (bytes <= sizeof(first_) - first_used_) {
      void* p = first_ + first_used_;
      first_used_ += bytes;
      return std::memset(p, 0, bytes);
    }
    more_.emplace_back(new (std::nothrow) std::byte[bytes]());
    return more_.back().get();
  }

  template <typename T>
  T* alloc_array(size_t count) noexcept {
    if (count > limits::kArrayElements) return nullptr;
    return static_cast<T*>(alloc(count ? count * sizeof(T) : sizeof(T), alignof(T)));
  }

  void reset() noexcept {
    more_.clear();
    used_ = first_used_ = 0;
  }

 private:
  alignas(std::max_align_t) std::byte first_[8 << 10];  // nearly every call fits
  size_t first_used_ = 0;
  size_t used_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> more_;
};

}  // namespace bf::server
