#include "server/worker/reader.h"

#include <chrono>

#include "server/worker/staging.h"

namespace bf::server {
namespace {

using std::chrono::microseconds;

// A twin that has been away for so long is at work; one that has just answered will look for the next call at once.
constexpr microseconds kAtWork{20};

}  // namespace

void Reader::look(const std::function<bool()>& waits, transport::LookOut time) {
  // What has come and is not issued keeps others busy, who may come to wait for this twin: it must not wait in push().
  if (!order_.all_issued()) return;
  if (!baton_.take()) {
    if (!wanted_.load(std::memory_order_relaxed)) wanted_.store(true, std::memory_order_relaxed);
    return;
  }
  if (order_.all_issued() && pool_.live_bytes() <= BlockPool::kLiveBytes &&
      transport::await_ready(stream_, time, [&] { return !waits(); }))
    receive();
  baton_.give();
}

// At once if nobody else has had it meanwhile, or wants it.
void Reader::take_baton() {
  const uint64_t own = baton_.taken();
  const bool wanted = wanted_.load(std::memory_order_relaxed);
  uint64_t seen = own;
  for (transport::LookOut away(kAtWork);;) {
    if (baton_.held() || baton_.taken() != seen) {
      seen = baton_.taken();
      away.restart();
    }
    if ((stopped() || away.over() || (seen == own && !wanted)) && baton_.take()) return;
    for (int i = 0; i < 64; ++i) transport::relax_cpu();
  }
}

void Reader::run() {
  for (take_baton(); !stopped();) {
    wanted_.store(false, std::memory_order_relaxed);
    const auto wanted = [this] { return stopped() || wanted_.load(std::memory_order_relaxed); };
    bool nothing = false;
    if (pool_.live_bytes() > BlockPool::kLiveBytes) {
      sleep_briefly();
    } else if (spin_us_ == 0 || transport::await_ready(stream_, microseconds(spin_us_), wanted)) {
      receive();
    } else {
      nothing = !wanted();
    }
    if (stopped()) return;
    baton_.give();
    // Asleep with the baton it would have to be woken for a call that the twin it belongs to has long been looking for.
    if (nothing) stream_.wait_until_ready();
    take_baton();
  }
}

// With the baton. Sleeps until something comes.
void Reader::receive() {
  if (stopped()) return;
  auto received = stream_.receive(splitter_.space());
  if (!received.ok()) return end_(received.status());
  if (*received == 0) return end_(Status(StatusCode::kUnavailable, "the client left"));
  bytes_.fetch_add(*received, std::memory_order_relaxed);
  // No block of ordinary size has more frames than push() takes at once from a twin.
  static_assert(BlockPool::kBlockBytes / sizeof(FrameHeader) <= Order::kFrames);
  splitter_.filled(*received);
  for (Frame frame;;) {
    auto whole = splitter_.next(frame);
    if (!whole.ok()) return end_(whole.status());
    if (!*whole) break;
    if (!order_.push(frame)) return;
  }
  order_.publish();
}

}  // namespace bf::server
