// The total order of a session's calls, and the threads ("twins") that keep it.
//
// Frames carry consecutive numbers n in the order in which they were pushed. There is one *turn*: the
// right to start the next frame. Whoever holds it starts frame n; when n is issued (a post: its handler returned; a
// call: its handler is entered) the turn passes to the twin of frame n + 1's lane. While no such frame has arrived the
// turn is parked, and who reads hands it out with the next frame. So frames start strictly in order, nothing is
// locked, and a run of frames of one lane costs the twin two atomic accesses per frame.
//
// A twin is a thread, made when its lane's first frame arrives. A twin without work spins briefly while work was recent
// and the machine has processors to spare, then sleeps in the kernel.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/limits.h"
#include "proto/frame.h"
#include "server/worker/receive.h"
#include "transport/thread.h"

namespace bf::server {

class Order;

// The right to start frames, as the frame that is being run sees it.
class Turn {
 public:
  // The frame is issued: later frames may start. Only the first call counts. A runner that does not call it holds the
  // turn until it returns.
  void pass();
  bool passed() const { return passed_; }
  // The frame that waits for this turn; null while none has come. Valid until the turn is passed.
  const Frame* next() const;

 private:
  friend class Order;
  Turn(Order& order, uint64_t number) : order_(order), number_(number) {}
  Order& order_;
  const uint64_t number_;
  bool passed_ = false;
};

class Order {
 public:
  class Runner {
   public:
    virtual ~Runner() = default;
    // Runs one frame, on the twin of its lane. The frame's bytes stay valid until it returns.
    virtual void run(const Frame& frame, Turn& turn) = 0;
    // A twin has nothing to do while `waits()` says so. It may look for frames itself until `time` is over.
    virtual void idle(const std::function<bool()>& waits, transport::LookOut time) {
      (void)waits;
      (void)time;
    }
    // The system gives no thread for a further lane. In push(); the frame is dropped.
    virtual void no_thread(uint32_t lane) = 0;
  };

  // `spin_us`: how long an idle twin polls before it sleeps; 0 on machines without processors to spare.
  Order(Runner& runner, uint32_t spin_us);
  ~Order();  // stop() and join()
  Order(const Order&) = delete;
  Order& operator=(const Order&) = delete;

  // For who reads, one thread at a time. push() takes the frame (and one use of its block); it waits while kFrames are under way, and
  // gives false after stop(). Frames become visible to twins at the next publish().
  bool push(const Frame& frame);
  void publish();

  // Everything that has been published is issued.
  bool all_issued() const { return issued_.load(std::memory_order_acquire) == published_.load(std::memory_order_acquire); }

  // Twins start nothing more. From any thread, also from a twin.
  void stop() noexcept;
  // After stop(), when nobody reads any more: waits for the twins, for what they are running. Not from a twin.
  void join();

  // Frames issued so far.
  uint64_t issued() const { return issued_.load(std::memory_order_acquire); }

  static constexpr uint64_t kFrames = 1 << 14;  // pushed and not yet issued: 768 KiB of slots, 16 ms of launches

 private:
  friend class Turn;
  struct Lane;
  static constexpr uint64_t kNotParked = ~uint64_t{0};

  Frame& slot(uint64_t number) const { return slots_[number & (kFrames - 1)]; }
  bool make_lane(uint32_t lane);
  void twin(Lane& lane);
  bool wait_for_turn(Lane& lane);
  // Ends frame `number`'s hold of the turn. True if the next frame is there and the caller now holds its turn.
  bool advance(uint64_t number);
  // Passes the turn of frame `number` to its lane.
  void hand(uint64_t number);
  bool unpark(uint64_t number);

  Runner& runner_;
  const uint32_t spin_us_;
  std::unique_ptr<Frame[]> slots_;
  std::unique_ptr<std::atomic<Lane*>[]> lanes_;
  std::vector<std::unique_ptr<Lane>> made_;  // who reads
  uint64_t pushed_ = 0;                      // who reads
  std::atomic<bool> stopping_{false};
  std::atomic<int> spinners_{0};
  alignas(64) std::atomic<uint64_t> published_{0};
  alignas(64) std::atomic<uint64_t> issued_{0};
  alignas(64) std::atomic<uint64_t> parked_{0};  // frame whose turn nobody holds; kNotParked while somebody does
};

}  // namespace bf::server
