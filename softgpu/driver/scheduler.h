// Asynchronous execution. All work that streams, graphs and events queue becomes *operations* in one graph of
// dependencies: an operation starts when all operations before it have ended. Streams are nothing but "the last
// operation so far", an event is "the operation that recorded it", the legacy default stream is an operation that
// follows the tails of all blocking streams. Threads are made when an operation is ready and none is idle, so an
// operation that blocks (a host function, a wait for a value in memory) never keeps another from running.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace bf::softgpu {

class Operation {
 public:
  bool done() const { return state_.load(std::memory_order_acquire) == kDone; }
  // Blocks until the operation has ended.
  void wait() const {
    for (uint32_t state = state_.load(std::memory_order_acquire); state != kDone;
         state = state_.load(std::memory_order_acquire))
      state_.wait(state, std::memory_order_acquire);
  }
  // CLOCK_MONOTONIC when it ended; 0 before.
  int64_t ended_ns() const { return ended_ns_; }

 private:
  friend class Scheduler;
  enum State : uint32_t { kWaiting, kReady, kDone };
  std::function<void()> work_;
  std::vector<std::shared_ptr<Operation>> followers_;
  size_t unfinished_ = 0;
  bool inline_ = false;  // run by the thread that submitted it
  int64_t ended_ns_ = 0;
  std::atomic<uint32_t> state_{kWaiting};
};
using OperationRef = std::shared_ptr<Operation>;

class Scheduler {
 public:
  static Scheduler& instance();
  // Queues `work` behind `after` (null entries are ignored). `work` may be empty: a mere join.
  OperationRef submit(std::function<void()> work, std::span<const OperationRef> after);
  // The same in two steps, for callers that run the work on their own thread: prepare() queues it, run() blocks until
  // it may start, runs it and ends it. Every prepared operation must be run.
  OperationRef prepare(std::span<const OperationRef> after);
  void run(const OperationRef& operation, const std::function<void()>& work);

 private:
  struct Pool;
  Scheduler();
  OperationRef make(std::function<void()> work, std::span<const OperationRef> after, bool run_inline);
  void finish(const OperationRef& operation);
  void start(OperationRef operation);
  void execute(OperationRef operation);
  Pool* pool_;
};

}  // namespace bf::softgpu
