// What the generated client code (api/remote_*.cc, api/stubs_*.cc) asks of the client. Everything here is declared
// only: client/ defines it, tests define a fake.
//
// A call is encoded straight into memory that begin() hands out: the generated code first computes an upper bound of
// the body, validates every argument it can, and only then begins; after begin() it never fails, so every begin() is
// followed by exactly one finish_post() or finish_call() on the same thread. An implementation may therefore hold the
// append lock in between, or give out a buffer of the thread.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/handle.h"
#include "base/limits.h"
#include "proto/api/cuda_api.h"
#include "proto/frame.h"

namespace bf::client {

// --- The way in
// --------------------------------------------------------------------------------------------------------

// 0: the session is up and nothing special holds; anything else: ask enter_slow().
extern constinit std::atomic<uint32_t> g_gate;

// What the program gets instead of the call, or 0 to go on: NOT_INITIALIZED before cuInit and in a forked child,
// DEINITIALIZED after exit handlers ran, DEVICE_UNAVAILABLE when the session is lost.
CUresult enter_slow() noexcept;

// Every stub starts with it, except those of rows with guard = "none".
inline CUresult enter() noexcept {
  if (g_gate.load(std::memory_order_acquire) == 0) [[likely]]
    return CUDA_SUCCESS;
  return enter_slow();
}

// A stub of a deny row was called: counts, logs the name once at debug level, returns CUDA_ERROR_NOT_SUPPORTED.
// `count` is this stub's own counter.
CUresult denied(const char* symbol, std::atomic<uint32_t>& count) noexcept;

// Says at debug level which call gives the program an error: the first thing to look at when a program misbehaves.
void log_refusal(const char* symbol, CUresult result) noexcept;

// What a stub returns goes through here.
inline CUresult answered(const char* symbol, CUresult result) noexcept {
  if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY) [[unlikely]] log_refusal(symbol, result);
  return result;
}

// --- The per-thread default stream
// -------------------------------------------------------------------------------------

// True while this thread is inside a `_ptds`/`_ptsz` stub of a function that has no stream parameter. Generated
// encoders of such functions set kPerThread from it; hand-written handle_F read it with per_thread(). (Stubs of
// functions with a stream parameter replace NULL by CU_STREAM_PER_THREAD instead.) Defined in call_channel.cc.
extern constinit thread_local bool t_per_thread __attribute__((tls_model("initial-exec")));

inline bool per_thread() noexcept { return t_per_thread; }
// The stream of calls that name none.
inline CUstream default_stream() noexcept { return per_thread() ? CU_STREAM_PER_THREAD : nullptr; }

class PerThreadScope {
 public:
  PerThreadScope() noexcept { t_per_thread = true; }
  ~PerThreadScope() { t_per_thread = false; }
  PerThreadScope(const PerThreadScope&) = delete;
  PerThreadScope& operator=(const PerThreadScope&) = delete;
};

inline CUstream per_thread_stream(CUstream stream) noexcept { return stream ? stream : CU_STREAM_PER_THREAD; }

// --- One call on the wire
// ----------------------------------------------------------------------------------------------

// Raw bytes behind the body, gathered from `count` parts. The parts must live until finish_*() returns, no longer.
struct Payload {
  const iovec* parts = nullptr;
  size_t count = 0;
  size_t bytes = 0;

  Payload() = default;
  Payload(const iovec* parts, size_t count) : parts(parts), count(count) {
    for (size_t i = 0; i < count; i++) bytes += parts[i].iov_len;
  }
};

struct Reply {
  CUresult result = CUDA_SUCCESS;   // the driver's
  std::span<const std::byte> outs;  // the body after ReplyHead; both spans are valid until this thread's next call
  std::span<const std::byte> payload;
};

// Gives `body_bound` bytes for the body of this thread's next call. Not 0: there is no session; return it to the
// program (nothing was begun). Sends a pending change of the thread's current context first. May block while the peer
// does not take bytes.
CUresult begin(size_t body_bound, std::byte*& body) noexcept;

// Appends the frame of the call begun: body_bytes (<= the bound) of body, then the payload. Returns 0, or the error
// that the program gets when the session is lost.
CUresult finish_post(uint16_t opcode, uint16_t flags, size_t body_bytes, const Payload& payload) noexcept;

// The same, then waits for the reply, and for the data that its watermark names. 0: `reply` is filled.
CUresult finish_call(uint16_t opcode, uint16_t flags, size_t body_bytes, const Payload& payload, Reply& reply) noexcept;

// The worker's reply to `name` cannot be decoded: marks the session dead. Returns what the program gets.
CUresult malformed_reply(const char* name) noexcept;

// --- Handle values
// -----------------------------------------------------------------------------------------------------

// A fresh value for an object of this kind, or 0 if 2^24 are alive (the program gets OUT_OF_MEMORY).
uint64_t make_handle(HandleKind kind) noexcept;

// The object died, or was never made because the call failed. Values of the worker and unknown ones are ignored.
void drop_handle(uint64_t value) noexcept;

}  // namespace bf::client
