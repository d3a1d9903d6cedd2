// Helpers of the generated client encoders (api/remote_*.cc).
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <string_view>

#include "proto/api/wire.h"

namespace bf::client {

// One array, string or extra field: leaves room for the other fields of a body.
inline constexpr size_t kMaxArrayBytes = limits::kBodyBytes / 2;

inline bool copy_exactly(void* to, size_t bytes, std::span<const std::byte> from) {
  if (from.size() != bytes) return false;
  if (bytes) std::memcpy(to, from.data(), bytes);
  return true;
}

inline bool copy_up_to(void* to, size_t bytes, std::span<const std::byte> from) {
  return from.size() <= bytes && copy_exactly(to, from.size(), from);
}

// Text and its NUL into a buffer of `bytes`, cut if need be, as the driver does.
inline void copy_string(char* to, uint64_t bytes, std::span<const std::byte> from) {
  if (!to || bytes == 0) return;
  const size_t length = std::min<uint64_t>(from.size(), bytes - 1);
  if (length) std::memcpy(to, from.data(), length);
  to[length] = '\0';
}

inline std::string_view as_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace bf::client
