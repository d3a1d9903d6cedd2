// Takes the client's frames from the call stream and puts them into the order.
//
// A twin that has nothing to do looks for frames itself: to be handed a call by another thread costs a tenth of the round trip.
// The reader's own thread does so while the twins are at work: it reads ahead, and serves those who still have nothing to do.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "base/status.h"
#include "server/worker/order.h"
#include "server/worker/receive.h"
#include "transport/transport.h"

namespace bf::server {

class Reader {
 public:
  // `spin_us`: how long it polls before it sleeps. `end` runs when the stream ends or carries what is no frame, and stops this.
  Reader(transport::Stream& stream, BlockPool& pool, Order& order, uint32_t spin_us, std::function<void(const Status&)> end)
      : stream_(stream), pool_(pool), order_(order), spin_us_(spin_us), end_(std::move(end)), splitter_(pool) {}

  // On a thread of its own, until stop(). No twin is in look() any more when this returns, nor comes in.
  void run();
  // On a twin that has nothing to do: looks for frames while it `waits`, if it may.
  void look(const std::function<bool()>& waits, transport::LookOut time);
  void stop() noexcept { stopped_.store(true, std::memory_order_release); }

  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  void take_baton();
  void receive();

  transport::Stream& stream_;
  BlockPool& pool_;
  Order& order_;
  const uint32_t spin_us_;
  const std::function<void(const Status&)> end_;
  std::atomic<bool> stopped_{false};
  std::atomic<uint64_t> bytes_{0};

  transport::Baton baton_;
  std::atomic<bool> wanted_{false};  // by a twin
  FrameSplitter splitter_;           // the holder's
};

}  // namespace bf::server
