// The two halves of every Bulk, without the wire between them.
//
// SendQueue cuts transfers into blocks, numbers them in send() order, and hands a block to a sender thread when the
// peer's ring has room for it. ReceiveWindow judges what arrives: which blocks may come now, and how far the peer may
// go on. The window is [released, released + ring): `released` is the number below which every block has been given
// back, so a slot (sequence modulo ring) belongs to exactly one block at a time, and blocks may arrive and be released
// in any order inside the window.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <vector>

#include "transport/transport.h"

namespace bf::transport {

// One Bulk::send().
struct Transfer {
  uint64_t id = 0;
  const std::byte* data = nullptr;
  size_t bytes = 0;
  size_t block_bytes = 0;  // of every block but the last
  size_t cut_bytes = 0;    // handed out so far
  uint32_t in_flight = 0;  // blocks that sender threads hold
  bool failed = false;
  std::function<void(const Status&)> sent;
};

// So many senders take whatever there is to send. More are in each other's way where little is, but one connection carries no
// more than a processor copies, so others help where much is.
inline constexpr uint32_t kSteadySenders = 4;

class SendQueue {
 public:
  using Sent = std::function<void(const Status&)>;

  // Window of a transport that does its own flow control after take().
  static constexpr uint64_t kUnbounded = UINT64_MAX;

  // What a sender thread does next: send a block, or tell the peer how far it may go on (announce()).
  struct Job {
    bool is_credit = false;
    Block block;                      // a credit: `sequence` is the watermark
    const std::byte* data = nullptr;  // of the block
    std::list<Transfer>::iterator owner;
  };

  explicit SendQueue(uint64_t window_blocks) : window_(window_blocks), cut_(active_.end()) {}

  // Bulk::send(). After stop(), `sent` runs right here, with the error.
  uint64_t push(uint64_t transfer, const void* data, size_t bytes, Sent sent);

  // For sender threads, which count from 0: runs the `sent` callbacks that are due, then waits for a job. Nothing once stop() was called.
  std::optional<Job> take(uint32_t sender = 0);
  // The bytes of a block job are no longer needed. The caller comes back to take().
  void finish(const Job& job);

  // The peer says that it released every block below `released`. False if that cannot be true.
  bool credit(uint64_t released);
  // A watermark to send to the peer; the latest one counts.
  void announce(uint64_t released);

  // Everything pending and later ends with `why`. The first reason stays.
  void fail(const Status& why);
  void stop();

 private:
  void fail_locked(const Status& why);
  bool block_for(uint32_t sender) const;
  void notify_all();
  void note_change() { changes_.fetch_add(1, std::memory_order_release); }
  // Waits for a change: looks out for a while, then sleeps.
  void wait_for_change(std::unique_lock<std::mutex>& lock);

  const uint64_t window_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable much_;  // of those who help with much
  std::atomic<uint64_t> changes_{0};  // counts up under mutex_, before changed_ is notified
  std::list<Transfer> active_;         // not finished, in send order
  std::list<Transfer>::iterator cut_;  // the first that is not wholly cut into blocks
  std::list<Transfer> done_;           // `sent` is due
  uint64_t waiting_ = 0;               // bytes that are not cut into blocks yet
  uint64_t next_sequence_ = 0;         // of the next push
  uint64_t next_block_ = 0;            // of the next block to take
  uint64_t released_ = 0;
  std::optional<uint64_t> announcement_;
  Status failure_;
  bool stopped_ = false;
};

class ReceiveWindow {
 public:
  explicit ReceiveWindow(uint32_t ring_blocks);

  // True if the block keeps every bound, lies in the window and comes for the first time. False: the peer is broken.
  bool admit(const Block& block);
  // Where to put an admitted block, for a receiver that may choose: the slot that was free last, so that no more of the ring
  // is touched than was ever full at once.
  uint32_t last_freed_slot(const Block& block) const;
  // False if the block is not held (released twice, or never came): nothing changes.
  bool release(const Block& block);

  // The watermark, if the peer should hear of it now: often enough that it never waits for blocks that are free, seldom
  // enough that small transfers cost no credit each. Counts as announced.
  std::optional<uint64_t> due_credit();
  uint64_t released() const;

 private:
  enum class Slot : uint8_t { kEmpty, kHeld, kReleased };

  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> places_;  // the slot that was free last when it was admitted, of each
  std::vector<uint32_t> free_;    // the last freed at the end
  uint64_t released_ = 0;
  uint64_t announced_ = 0;
  uint64_t seen_ = 0;  // 1 + the highest sequence admitted
};

}  // namespace bf::transport
