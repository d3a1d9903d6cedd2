// Helpers of the generated dispatch code (api/dispatch_*.cc): bounded decoding into the arena and handle translation.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <string_view>

#include "proto/api/call_context.h"
#include "proto/api/wire.h"

namespace bf::server {

inline Outcome violation(Call& call, const char* what) {
  call.violation = what;
  return Outcome::kViolation;
}

// The call fails without reaching the driver.
inline Outcome refuse(Call& call, CUresult why) {
  call.result = why;
  return Outcome::kDone;
}

// The same for a call that brings a bulk transfer.
inline Outcome refuse(Call& call, CUresult why, uint64_t transfer) {
  if (transfer) call.drop_transfer(transfer);
  return refuse(call, why);
}

// --- Handles
// -----------------------------------------------------------------------------------------------------------

// Programs pass a CUkernel where a CUfunction is expected, and the streams 1 (legacy) and 2 (per thread) by number.
template <typename T>
CUresult to_real(Call& call, HandleKind kind, T& handle) {
  const uint64_t value = uint64_t(handle);
  if (value == 0 || (kind == HandleKind::kStream && value <= 2)) return CUDA_SUCCESS;
  if (kind == HandleKind::kFunction && Handle::unpack(value).kind == HandleKind::kKernel) kind = HandleKind::kKernel;
  uint64_t real = 0;
  if (!call.resolve(kind, value, real))
    return kind == HandleKind::kContext ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_INVALID_HANDLE;
  handle = T(real);
  return CUDA_SUCCESS;
}

template <typename T>
CUresult all_to_real(Call& call, HandleKind kind, T* handles, uint64_t count) {
  if (!handles) return CUDA_SUCCESS;
  for (uint64_t i = 0; i < count; i++)
    if (CUresult why = to_real(call, kind, handles[i])) return why;
  return CUDA_SUCCESS;
}

template <typename T>
uint64_t to_value(Call& call, HandleKind kind, T handle) {
  const uint64_t real = uint64_t(handle);
  if (real == 0 || (kind == HandleKind::kStream && real <= 2)) return real;
  return call.value_of(kind, real);
}

template <typename T>
void all_to_value(Call& call, HandleKind kind, T* handles, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) handles[i] = T(to_value(call, kind, handles[i]));
}

// Structs without handles; api/struct_handles.h overloads these for the others.
template <typename T>
CUresult fix_to_real(Call&, T&) {
  return CUDA_SUCCESS;
}
template <typename T>
void fix_to_value(Call&, T&) {}

// `tag`: the parameter that tells the members of a union apart, where the struct itself does not.
template <typename T, typename... Tag>
CUresult structs_to_real(Call& call, T* structs, uint64_t count, Tag... tag) {
  if (!structs) return CUDA_SUCCESS;
  for (uint64_t i = 0; i < count; i++)
    if (CUresult why = fix_to_real(call, structs[i], tag...)) return why;
  return CUDA_SUCCESS;
}

template <typename T, typename... Tag>
void structs_to_value(Call& call, T* structs, uint64_t count, Tag... tag) {
  for (uint64_t i = 0; i < count; i++) fix_to_value(call, structs[i], tag...);
}

// --- Arrays and strings
// ------------------------------------------------------------------------------------------------

// A field that is not there is NULL; one that is must have exactly the size its counter says.
template <typename T>
bool decode_array(Call& call, std::span<const std::byte> bytes, uint64_t count, T*& out) {
  out = nullptr;
  if (!bytes.data()) return true;
  if (count > limits::kBodyBytes || bytes.size() != count * sizeof(T)) return false;
  out = static_cast<T*>(call.arena.alloc(std::max(bytes.size(), sizeof(T)), alignof(T)));
  if (!out) return false;
  if (!bytes.empty()) std::memcpy(static_cast<void*>(out), bytes.data(), bytes.size());
  return true;
}

inline bool decode_string(Call& call, std::span<const std::byte> bytes, const char*& out) {
  out = nullptr;
  if (!bytes.data()) return true;
  if (bytes.size() > limits::kStringBytes) return false;
  char* text = static_cast<char*>(call.arena.alloc(bytes.size() + 1));
  if (!text) return false;
  if (!bytes.empty()) std::memcpy(text, bytes.data(), bytes.size());
  out = text;
  return true;
}

// Room for an out array; nullptr past the bounds.
template <typename T>
T* out_array(Call& call, uint64_t count) {
  if (count > limits::kBodyBytes / sizeof(T)) return nullptr;
  return static_cast<T*>(call.arena.alloc(std::max<uint64_t>(count, 1) * sizeof(T), alignof(T)));
}

inline std::string_view as_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// --- The reply
// ---------------------------------------------------------------------------------------------------------

inline std::byte* begin_outs(Call& call, size_t bound) {
  if (bound > limits::kBodyBytes - wire::kReplyHeadBound) return nullptr;
  std::byte* start = static_cast<std::byte*>(call.arena.alloc(std::max<size_t>(bound, 1)));
  call.outs = {start, 0};
  return start;
}

inline void end_outs(Call& call, std::byte* end) { call.outs = {call.outs.data(), size_t(end - call.outs.data())}; }

}  // namespace bf::server
