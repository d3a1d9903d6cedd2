// The sending half of the call stream: where the session's total order of calls is made.
//
// A frame's place in the order is the moment it is appended, under one short lock that is never held across a system
// call. Sending happens apart from it: a flusher thread sends what has gathered while the previous send was under way,
// so frames coalesce under load; a caller that will wait for a reply sends on its own thread if nobody is sending.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "base/status.h"
#include "client/futex.h"
#include "proto/api/call_channel.h"
#include "proto/frame.h"
#include "transport/transport.h"

namespace bf::client {

using Bytes = std::span<const std::byte>;

class CallStream {
 public:
  // `lost` runs at most once, on whatever thread sees a send fail; it may call close().
  CallStream(transport::Stream& stream, std::function<void(const Status&)> lost);
  ~CallStream();

  // The flusher's loop: runs on its own thread until close().
  void run_flusher();

  enum class Urgency { kLater, kNow };
  // Appends a frame. kNow: the caller waits for an answer, so the frame leaves without a hand-over if possible.
  // Blocks only while kMaxPending bytes are unsent. False once the stream is closed.
  bool append(const FrameHeader& header, Bytes body, const Payload& payload, Urgency urgency);

  // Frames appended so far.
  uint64_t appended() const { return appended_.load(std::memory_order_relaxed); }

  // Sends what is pending, if the peer takes it in `timeout_ms`; for the end of the process.
  void drain(int timeout_ms);

  // Every later append fails; blocked ones wake. Idempotent.
  void close();

 private:
  struct Buffer {
    std::byte* data = nullptr;
    size_t used = 0, capacity = 0;
    void reserve(size_t bytes);
    void put(const void* bytes, size_t count);
  };

  bool send_pending();
  void linger();

  static constexpr size_t kMaxPending = 16 << 20;  // then posters wait for the peer: two of the largest frames

  transport::Stream& stream_;
  std::function<void(const Status&)> lost_;
  SpinLock lock_;
  Buffer pending_, sending_;            // pending_ under lock_; sending_ belongs to the thread that set busy_
  bool busy_ = false;                   // somebody is sending
  bool closed_ = false;
  bool flusher_sleeps_ = false;
  std::atomic<size_t> pending_bytes_{0};
  std::atomic<uint64_t> appended_{0};   // written under lock_
  std::atomic<bool> urgent_{false};     // somebody waits for the answer to what was left to the flusher
  std::atomic<uint32_t> flusher_word_{0}, room_word_{0};
  uint32_t room_waiters_ = 0;
};

}  // namespace bf::client
