// One RC queue pair of a link: its rdma_cm identifier, completion queues, and how threads wait for them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>

#include "transport/rdma_verbs.h"
#include "transport/wake.h"

namespace bf::transport::rdma {

// Whether the link still lives, and why not. The first reason stays.
class Fate {
 public:
  bool gone() const { return gone_.load(std::memory_order_acquire); }
  // True for the first.
  bool end(const Status& why);
  Status why() const;

 private:
  std::atomic<bool> gone_{false};
  mutable std::mutex mutex_;
  Status why_;
};

// A completion queue and the channel that tells of completions. Polling needs the caller's lock.
class Completions {
 public:
  static Result<std::unique_ptr<Completions>> make(ibv_context* context, int entries);
  ~Completions();

  ibv_cq* queue() const { return cq_; }
  int fd() const { return channel_->fd; }
  // How many completions were written to `out`; negative if the device fails.
  int poll(std::span<ibv_wc> out) { return ibv_poll_cq(cq_, int(out.size()), out.data()); }
  // The next completion makes fd() readable. Poll once more after this: one may have come before.
  void arm() { ibv_req_notify_cq(cq_, 0); }
  // Takes back what fd() told of. One thread at a time.
  void drain();
  // Sleeps until fd() or `wake` is readable, or for `most_ms`.
  void sleep(const Wake& wake, int most_ms = -1) const;

 private:
  Completions() = default;
  ibv_comp_channel* channel_ = nullptr;
  ibv_cq* cq_ = nullptr;
};

struct QueueShape {
  uint32_t sends = 0;
  uint32_t receives = 0;
  uint32_t inline_bytes = 0;  // wanted; see Connection::inline_bytes()
};

// Owns `id` and everything made on it.
class Connection {
 public:
  explicit Connection(rdma_cm_id* id) : id_(id) {}
  ~Connection();

  Status make_queue_pair(ibv_pd* pd, const QueueShape& shape);
  rdma_cm_id* id() const { return id_; }
  Completions& sends() { return *sends_; }
  Completions& receives() { return *receives_; }
  uint32_t inline_bytes() const { return inline_bytes_; }

  Status post(ibv_send_wr& request);
  Status post(ibv_recv_wr& request);
  // Ends the connection: everything posted comes back with an error, the peer is told. Never blocks.
  void disconnect() noexcept;
  // Destroys queue pair and completion queues, and hands out the identifier, which is the caller's to destroy.
  rdma_cm_id* dismantle() noexcept;
  // The queue pair into its error state, as a broken device would leave it.
  void break_queue_pair() noexcept;

 private:
  rdma_cm_id* id_;
  std::unique_ptr<Completions> sends_, receives_;
  uint32_t inline_bytes_ = 0;
};

// What a completion's error means for the link. kUnavailable: the connection is over; else the network or this machine.
Status completion_error(const ibv_wc& completion);

}  // namespace bf::transport::rdma
