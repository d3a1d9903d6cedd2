// What every Bulk has in common: threads, sending order, the landing window, and how it all ends.
//
// Each channel has a sender thread, which takes jobs from the SendQueue, and a receiver thread. A transport provides
// the wire: write() and read() for one job or block, and hang_up(). Receivers never send and never wait for the sink,
// so each direction's progress rests only on its own sink releasing blocks.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <vector>

#include "transport/bulk_queue.h"
#include "transport/thread.h"
#include "transport/transport.h"

namespace bf::transport {

class BulkEngine : public Bulk {
 public:
  void start(BulkSink& sink) final;
  uint64_t send(uint64_t transfer, const void* data, size_t bytes, SendQueue::Sent sent) final;
  void release(const Block& block) final;
  std::span<std::byte> ring() final { return ring_; }
  // Not from a callback: it waits for them.
  void stop() noexcept final;

  // For Link::shut(): everything ends with `why`. Never blocks.
  void shut(const Status& why) noexcept;

 protected:
  // `link_failed` shuts the whole link; called from transport threads. A derived class calls stop() in its destructor.
  // `sends`, `receives`: what goes which way on each channel. `ring_blocks`: of both directions; `send_window`: as many, or
  // kUnbounded.
  struct Channels {
    uint32_t first = 0, end = 0;
  };
  BulkEngine(Channels sends, Channels receives, uint32_t ring_blocks, uint64_t send_window, bool places,
             std::function<void()> link_failed);

  // write() and read() fail with kUnavailable when the peer left, and with anything else when the link is broken.
  // Sends one job; returns when its bytes are no longer needed.
  virtual Status write(uint32_t channel, const SendQueue::Job& job) = 0;
  // Receives one thing. False: the peer ended in order. Blocks go through target() and landed().
  virtual Result<bool> read(uint32_t channel) = 0;
  // Makes every present and later write() and read() end promptly, here and at the peer. Idempotent, never blocks.
  virtual void hang_up() noexcept = 0;
  // The window of the incoming direction may have moved: tell the peer, if it is time.
  virtual void window_moved() = 0;

  struct Target {
    std::byte* data = nullptr;
    bool placed = false;
  };
  // Where an admitted block goes. kInvalid: the sink refused it.
  Result<Target> target(const Block& block);
  // The bytes are there: tells the sink.
  Status landed(const Block& block, const Target& target);
  std::byte* slot(uint64_t sequence) const {
    return ring_.data() + sequence % (ring_.size() / limits::kBulkBlockBytes) * limits::kBulkBlockBytes;
  }
  // The slot of an admitted block that is not placed: the sender's choice, unless the receiver may choose.
  virtual std::byte* landing_slot(const Block& block) const { return slot(block.sequence); }

  SendQueue queue_;
  ReceiveWindow window_;
  std::span<std::byte> ring_;  // set by the derived constructor; empty: no memory, start() fails

 private:
  void send_loop(uint32_t channel);
  void receive_loop(uint32_t channel);
  void end(const Status& why);
  void receiver_left();
  Status add_thread(const char* name, std::function<void()> body);

  const Channels sends_, receives_;
  const bool places_;
  const std::function<void()> link_failed_;
  BulkSink* sink_ = nullptr;
  std::atomic<bool> stopping_{false};
  std::atomic<uint32_t> receivers_left_{0};
  std::mutex why_mutex_;
  Status why_;  // the first reason
  std::mutex threads_mutex_;
  std::vector<Thread> threads_;
};

}  // namespace bf::transport
