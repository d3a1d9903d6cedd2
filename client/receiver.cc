#include "client/receiver.h"

#include <sys/prctl.h>

namespace bf::client {
namespace {

// What nobody waits for - small copies whose completion is asked for later, errors of posts, text - may lie for so long. A nap costs
// some microseconds of a processor: small machines have none to spare, and while a thread waits it takes what comes by itself.
constexpr timespec kLongNap{0, 1'000'000};
const timespec kNap = transport::processors_to_spare() ? timespec{0, 100'000} : kLongNap;

}  // namespace

void Receiver::wake() {
  word_.fetch_add(1, std::memory_order_release);
  futex_wake(word_, 1);
}

void Receiver::run(const std::function<bool()>& works) {
  prctl(PR_SET_TIMERSLACK, 1);  // ns
  for (uint64_t seen = 0;;) {
    const uint32_t word = word_.load(std::memory_order_acquire);
    const auto nap = [&](const timespec& time) { futex_wait(word_, word, &time); };
    // Who has received since will soon do so again.
    if (baton_.taken() != seen && waiters_.load(std::memory_order_relaxed) == 0) {
      seen = baton_.taken();
      nap(kNap);
      continue;
    }
    if (!baton_.take()) {
      nap(kLongNap);
      continue;
    }
    seen = baton_.taken();
    while (stream_.ready() && receive()) {
    }
    const bool soon = waiters_.load(std::memory_order_seq_cst) == 0 && works();
    if (!soon) receive();
    const bool ended = ended_;
    baton_.give();
    if (ended) return;
    if (soon) nap(kNap);
  }
}

// One look at the stream, with the baton. False once it has ended.
bool Receiver::receive() {
  if (ended_) return false;
  const auto end = [&](Status why) {
    ended_ = true;
    lost_(why);
    return false;
  };
  auto received = stream_.receive(frames_.space());
  if (!received.ok()) return end(received.status());
  if (*received == 0) return end(Status(StatusCode::kUnavailable, "the server closed the connection"));
  frames_.filled(*received);
  for (FrameBuffer::Frame frame;;) {
    const auto next = frames_.next(frame, frame_header_ok);
    if (next == FrameBuffer::Next::kIncomplete) return true;
    if (next == FrameBuffer::Next::kMalformed) return end(Status(StatusCode::kInvalid, "the server sent a malformed frame"));
    if (!take_(frame.header, frame.body, frame.payload))
      return end(Status(StatusCode::kInvalid, "the server sent a frame that answers nothing"));
  }
}

}  // namespace bf::client
