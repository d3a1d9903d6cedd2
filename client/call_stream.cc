#include "client/call_stream.h"

#include <sys/prctl.h>
#include <time.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "client/watch.h"

namespace bf::client {

namespace {
// A busy program posts again soon, and should not have to wake anybody for it: that costs more than the call. Where there
// are processors to spare the flusher looks out for so long, else it looks again after a nap; who waits for an answer
// sends by himself.
constexpr auto kFlusherSpin = std::chrono::microseconds(200);
// Between two sends at least: what is posted meanwhile travels together, for one system call, one packet and one look at the
// other end, and nobody takes the buffer's cache lines from the program. Nothing waits for what is posted.
constexpr auto kFlusherRest = std::chrono::microseconds(25);
constexpr timespec kFlusherNap{0, 30'000};
constexpr size_t kKeepCapacity = 4 << 20;                     // a buffer that grew past this for an image is given back
}  // namespace

void CallStream::Buffer::reserve(size_t bytes) {
  if (bytes <= capacity) return;
  size_t grown = capacity ? capacity : 64 << 10;
  while (grown < bytes) grown *= 2;
  data = static_cast<std::byte*>(std::realloc(data, grown));
  BF_CHECK(data != nullptr);
  capacity = grown;
}

void CallStream::Buffer::put(const void* bytes, size_t count) {
  if (count) std::memcpy(data + used, bytes, count);
  used += count;
}

CallStream::CallStream(transport::Stream& stream, std::function<void(const Status&)> lost)
    : stream_(stream), lost_(std::move(lost)) {}

CallStream::~CallStream() {
  std::free(pending_.data);
  std::free(sending_.data);
}

bool CallStream::append(const FrameHeader& header, Bytes body, const Payload& payload, Urgency urgency) {
  const size_t bytes = sizeof header + body.size() + payload.bytes;
  lock_.lock();
  while (!closed_ && pending_.used > 0 && pending_.used + bytes > kMaxPending) {
    uint32_t seen = room_word_.load(std::memory_order_relaxed);
    ++room_waiters_;
    lock_.unlock();
    WatchWait waiting("wait for room to send");
    futex_wait(room_word_, seen);
    lock_.lock();
    --room_waiters_;
  }
  if (closed_) {
    lock_.unlock();
    return false;
  }
  pending_.reserve(pending_.used + bytes);
  pending_.put(&header, sizeof header);
  pending_.put(body.data(), body.size());
  for (size_t i = 0; i < payload.count; ++i) pending_.put(payload.parts[i].iov_base, payload.parts[i].iov_len);
  pending_bytes_.store(pending_.used, std::memory_order_release);
  appended_.store(appended_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  if (busy_) {  // whoever sends, or the flusher after him, will take this along
    if (urgency == Urgency::kNow) urgent_.store(true, std::memory_order_relaxed);
    lock_.unlock();
    return true;
  }
  if (urgency == Urgency::kNow) {
    busy_ = true;
    lock_.unlock();
    return send_pending();
  }
  bool wake = std::exchange(flusher_sleeps_, false);
  lock_.unlock();
  if (wake) {
    flusher_word_.fetch_add(1, std::memory_order_release);
    futex_wake(flusher_word_, 1);
  }
  return true;
}

// Called with busy_ set by this thread. Sends what has gathered; what is appended meanwhile is the flusher's.
bool CallStream::send_pending() {
  lock_.lock();
  std::swap(pending_, sending_);
  pending_bytes_.store(0, std::memory_order_relaxed);
  urgent_.store(false, std::memory_order_relaxed);
  bool wake_room = room_waiters_ > 0;
  if (wake_room) room_word_.fetch_add(1, std::memory_order_relaxed);
  lock_.unlock();
  if (wake_room) futex_wake(room_word_, INT_MAX);
  iovec part{sending_.data, sending_.used};
  Status status = stream_.send({&part, 1});
  sending_.used = 0;
  if (sending_.capacity > kKeepCapacity) {
    std::free(sending_.data);
    sending_ = {};
  }
  lock_.lock();
  busy_ = false;
  bool wake = pending_.used > 0 && std::exchange(flusher_sleeps_, false);
  bool open = !closed_;
  lock_.unlock();
  if (!status.ok()) {
    lost_(status);
    return false;
  }
  if (wake) {
    flusher_word_.fetch_add(1, std::memory_order_release);
    futex_wake(flusher_word_, 1);
  }
  return open;
}

void CallStream::linger() {
  if (!transport::processors_to_spare()) {
    nanosleep(&kFlusherNap, nullptr);
    return;
  }
  const auto relax = [] {
    for (int i = 0; i < 16; ++i) transport::relax_cpu();
  };
  for (transport::LookOut rest(kFlusherRest); !urgent_.load(std::memory_order_relaxed) && !rest.over();) relax();
  for (transport::LookOut look(kFlusherSpin); pending_bytes_.load(std::memory_order_relaxed) == 0 && !look.over();) relax();
}

void CallStream::run_flusher() {
  prctl(PR_SET_TIMERSLACK, 1);  // ns
  for (;;) {
    uint32_t seen = flusher_word_.load(std::memory_order_acquire);
    lock_.lock();
    if (closed_) return lock_.unlock();
    if (pending_.used > 0 && !busy_) {
      busy_ = true;
      lock_.unlock();
      send_pending();
      if (!urgent_.load(std::memory_order_relaxed)) linger();
      continue;
    }
    // Nothing to do, or another thread sends and will wake us if it leaves something behind.
    flusher_sleeps_ = true;
    lock_.unlock();
    futex_wait(flusher_word_, seen);
  }
}

void CallStream::drain(int timeout_ms) {
  for (int waited = 0; waited < timeout_ms; ++waited) {
    lock_.lock();
    bool idle = closed_ || (pending_.used == 0 && !busy_);
    lock_.unlock();
    if (idle) return;
    usleep(1000);
  }
}

void CallStream::close() {
  lock_.lock();
  closed_ = true;
  room_word_.fetch_add(1, std::memory_order_relaxed);
  lock_.unlock();
  futex_wake(room_word_, INT_MAX);
  flusher_word_.fetch_add(1, std::memory_order_release);
  futex_wake(flusher_word_, 1);
}

}  // namespace bf::client
