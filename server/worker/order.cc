#include "server/worker/order.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <system_error>

#include "base/log.h"
#include "transport/thread.h"

namespace bf::server {
namespace {

// States of a lane's futex word.
enum : uint32_t { kIdle = 0, kHasTurn = 1, kSleeping = 2 };

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0); }

void sleep_us(long us) {
  const timespec time{0, us * 1000};
  nanosleep(&time, nullptr);
}

constexpr int kMaxSpinners = 2;  // the lane that ran last and one more; others would only take processors
// While bulk data is moved the program is likely to wait for it, with its next call behind; but on a slow line for long.
constexpr auto kMoving = std::chrono::milliseconds(2);

}  // namespace

struct Order::Lane {
  uint32_t id = 0;
  uint64_t number = 0;  // the frame whose turn was handed over; written before `state` becomes kHasTurn
  alignas(64) std::atomic<uint32_t> state{kIdle};
  std::thread thread;
};

Order::Order(Runner& runner, uint32_t spin_us)
    : runner_(runner),
      spin_us_(spin_us),
      slots_(new Frame[kFrames]),
      lanes_(new std::atomic<Lane*>[limits::kLanes] {}) {}

Order::~Order() {
  stop();
  join();
  // What was pushed and never started still uses its blocks.
  for (uint64_t n = issued_.load(std::memory_order_relaxed); n < pushed_; ++n)
    if (ReceiveBlock* block = slot(n).block) block->release(1);
}

void Order::join() {
  for (auto& lane : made_)
    if (lane->thread.joinable()) lane->thread.join();
}

bool Order::make_lane(uint32_t id) {
  auto lane = std::make_unique<Lane>();
  lane->id = id;
  try {
    lane->thread = std::thread([this, raw = lane.get()] { twin(*raw); });
  } catch (const std::system_error&) {
    return false;
  }
  lanes_[id].store(lane.get(), std::memory_order_release);
  made_.push_back(std::move(lane));
  return true;
}

bool Order::push(const Frame& frame) {
  const uint32_t lane = frame.header.lane;
  if (!lanes_[lane].load(std::memory_order_relaxed) && !make_lane(lane)) {
    frame.block->release(1);
    runner_.no_thread(lane);
    return true;
  }
  // A full ring means that twins are behind by milliseconds: polling wastes nothing and wakes nobody.
  while (pushed_ - issued_.load(std::memory_order_acquire) >= kFrames) {
    publish();
    if (stopping_.load(std::memory_order_relaxed)) break;
    sleep_us(50);
  }
  if (stopping_.load(std::memory_order_relaxed)) {
    frame.block->release(1);
    return false;
  }
  slot(pushed_++) = frame;
  return true;
}

// Publishing and parking are two sides of one agreement: each first writes its own word and then reads the other's, so
// at least one of them sees that frame n is there and that nobody holds its turn; the exchange picks exactly one.
void Order::publish() {
  if (published_.load(std::memory_order_relaxed) == pushed_) return;
  published_.store(pushed_, std::memory_order_seq_cst);
  const uint64_t parked = parked_.load(std::memory_order_seq_cst);
  if (parked < pushed_ && unpark(parked)) hand(parked);
}

bool Order::unpark(uint64_t number) {
  return parked_.compare_exchange_strong(number, kNotParked, std::memory_order_seq_cst);
}

bool Order::advance(uint64_t number) {
  const uint64_t next = number + 1;
  issued_.store(next, std::memory_order_release);
  if (published_.load(std::memory_order_acquire) > next) return true;
  parked_.store(next, std::memory_order_seq_cst);
  return published_.load(std::memory_order_seq_cst) > next && unpark(next);
}

void Order::hand(uint64_t number) {
  Lane& lane = *lanes_[slot(number).header.lane].load(std::memory_order_acquire);
  lane.number = number;
  if (lane.state.exchange(kHasTurn, std::memory_order_acq_rel) == kSleeping) futex_wake(lane.state);
}

const Frame* Turn::next() const {
  if (passed_ || order_.published_.load(std::memory_order_acquire) <= number_ + 1) return nullptr;
  return &order_.slot(number_ + 1);
}

void Turn::pass() {
  if (passed_) return;
  passed_ = true;
  if (order_.advance(number_)) order_.hand(number_ + 1);
}

void Order::stop() noexcept {
  if (stopping_.exchange(true, std::memory_order_seq_cst)) return;
  for (uint32_t id = 0; id < limits::kLanes; ++id) {
    Lane* lane = lanes_[id].load(std::memory_order_acquire);
    if (lane && lane->state.exchange(kHasTurn, std::memory_order_acq_rel) == kSleeping) futex_wake(lane->state);
  }
}

bool Order::wait_for_turn(Lane& lane) {
  if (spin_us_ > 0 && spinners_.fetch_add(1, std::memory_order_relaxed) < kMaxSpinners) {
    const std::function<bool()> waits = [&] { return lane.state.load(std::memory_order_relaxed) != kHasTurn; };
    transport::LookOut moving(kMoving);
    for (transport::LookOut look{std::chrono::microseconds(spin_us_)}; waits() && !look.over();) {
      if (transport::Moving::any() && !moving.over()) look.restart();
      runner_.idle(waits, look);
      for (int i = 0; i < 64 && waits(); ++i) transport::relax_cpu();
    }
  }
  if (spin_us_ > 0) spinners_.fetch_sub(1, std::memory_order_relaxed);
  for (;;) {
    uint32_t state = kIdle;
    lane.state.compare_exchange_strong(state, kSleeping, std::memory_order_acquire);
    if (state == kHasTurn) break;
    if (stopping_.load(std::memory_order_seq_cst)) return false;
    futex_wait(lane.state, kSleeping);
  }
  lane.state.exchange(kIdle, std::memory_order_acq_rel);  // reads: whoever wrote last happened before what follows
  return !stopping_.load(std::memory_order_seq_cst);
}

void Order::twin(Lane& lane) {
  ReceiveBlock* block = nullptr;  // of the frames counted in `done`: their uses are given back together
  uint32_t done = 0;
  const auto give_back = [&] {
    if (block) block->release(done);
    block = nullptr;
    done = 0;
  };
  while (wait_for_turn(lane)) {
    for (uint64_t number = lane.number; !stopping_.load(std::memory_order_relaxed);) {
      const Frame frame = slot(number);
      if (frame.block != block) give_back();
      block = frame.block;
      ++done;
      Turn turn(*this, number);
      runner_.run(frame, turn);
      if (turn.passed() || !advance(number)) break;
      if (slot(++number).header.lane != lane.id) {
        hand(number);
        break;
      }
    }
    give_back();
  }
  give_back();
}

}  // namespace bf::server
