// The worker's side of a trace (proto/trace.h): what ran when, kept until the client asks. Nothing is recorded before it
// first does.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "proto/trace.h"

namespace bf::server {

class Recorder {
 public:
  bool on() const { return on_.load(std::memory_order_relaxed); }
  // The payload of the answer: the oldest records, which are forgotten here. Records from now on.
  std::vector<std::byte> take();

  // While it lives, something of the kind goes on; for kBytes within the kRun of the same thread.
  class Span {
   public:
    Span(Recorder& recorder, uint32_t lane, uint16_t opcode);  // kRun
    explicit Span(Recorder& recorder);                         // kBytes
    ~Span() {
      if (on_) [[unlikely]] end();
    }
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

   private:
    void end();
    Recorder& recorder_;
    const bool on_;
    TraceRecord record_;
  };

 private:
  static constexpr size_t kMost = 1 << 18;  // 6 MiB: half a second of launches without a question

  std::atomic<bool> on_{false};
  std::mutex mutex_;
  std::deque<TraceRecord> records_;
  uint64_t dropped_ = 0;
};

}  // namespace bf::server
