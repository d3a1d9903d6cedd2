// The receiving half of the call stream (the sending half: client/call_stream.h).
//
// Any thread may take frames from it, one at a time. A thread that waits for an answer does it itself: to be handed the answer
// by another costs a quarter of the round trip. A thread of its own (run()) takes what comes while nobody waits.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <span>

#include "base/status.h"
#include "client/futex.h"
#include "proto/frame_buffer.h"
#include "transport/transport.h"

namespace bf::client {

class Receiver {
 public:
  // A whole frame; its bytes are gone when this returns. False: it answers nothing, so the server cannot be trusted.
  using Take = std::function<bool(const FrameHeader& header, std::span<const std::byte> body, std::span<const std::byte> payload)>;

  // `lost` runs on whichever thread sees the stream end, break, or carry what is no frame; it makes every wait end.
  Receiver(transport::Stream& stream, Take take, std::function<void(const Status&)> lost)
      : stream_(stream), take_(std::move(take)), lost_(std::move(lost)) {}

  // Waits while `waits` says so, and takes what comes meanwhile; looks out for `spin` before it sleeps in the stream. Returns false
  // at once if another thread is at it.
  template <typename Waits>
  bool receive_while(Waits waits, std::chrono::microseconds spin) {
    if (!baton_.take()) return false;
    while (waits()) {
      transport::await_ready(stream_, spin);
      if (!receive()) break;
    }
    baton_.give();
    if (waiters_.load(std::memory_order_seq_cst) > 0) wake();
    return true;
  }

  // Exists while a thread waits that may be asleep elsewhere: run() then sees to it that its answer is taken.
  class Waiter {
   public:
    explicit Waiter(Receiver& receiver) : receiver_(receiver) { receiver_.waiters_.fetch_add(1, std::memory_order_seq_cst); }
    ~Waiter() { receiver_.waiters_.fetch_sub(1, std::memory_order_relaxed); }
    Waiter(const Waiter&) = delete;

   private:
    Receiver& receiver_;
  };

  // Until the stream ends. `works` tells whether the program is likely to wait soon: then this only looks in now and then,
  // and sleeps in the stream otherwise.
  void run(const std::function<bool()>& works);

 private:
  bool receive();
  void wake();

  transport::Stream& stream_;
  const Take take_;
  const std::function<void(const Status&)> lost_;
  transport::Baton baton_;
  std::atomic<uint32_t> word_{0};  // run() naps here while others receive
  std::atomic<uint32_t> waiters_{0};

  // The holder's.
  FrameBuffer frames_{256 << 10};
  bool ended_ = false;
};

}  // namespace bf::client
