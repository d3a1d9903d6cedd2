// Where the program's time goes: what each call of the program sent, got and waited for. Counted into the memory that
// `bfrun --stats` made (BF_STATS, proto/stats.h), and told to the trace (BF_TRACE, client/trace.h). The stubs say when a
// call begins and ends (proto/api/watch.h); what the layers below do meanwhile counts as that call's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>

#include "proto/api/watch.h"

namespace bf::client {

inline bool watched() { return g_watched.load(std::memory_order_relaxed) != 0; }

inline uint64_t monotonic_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

// The calling thread's call sent a frame of so many bytes; it waits for an answer, or does not.
void watch_sent(size_t bytes, bool answered) noexcept;
// Bytes that travel for it beside the frame, and those of its answer.
void watch_bytes_up(size_t bytes) noexcept;
void watch_bytes_down(size_t bytes) noexcept;

// While it lives the calling thread stands still.
class WatchWait {
 public:
  explicit WatchWait(const char* what) noexcept {
    if (watched()) [[unlikely]] begin(what);
  }
  ~WatchWait() {
    if (what_) [[unlikely]] end();
  }
  WatchWait(const WatchWait&) = delete;
  WatchWait& operator=(const WatchWait&) = delete;

 private:
  void begin(const char* what) noexcept;
  void end() const noexcept;
  const char* what_ = nullptr;
  uint64_t begin_ns_ = 0;
};

// In a forked child nobody is watched: what is written belongs to the parent.
void stop_watching() noexcept;

}  // namespace bf::client
