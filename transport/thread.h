// The threads of a transport. They live inside other people's programs, so they take no signal meant for the program
// and little memory.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>

#include "base/status.h"

namespace bf::transport {

// A joinable thread; joined by the destructor. Every signal is blocked in it but those a thread raises by its own fault
// (SIGSEGV ...): a blocked one would end the process without asking the program's handler.
class Thread {
 public:
  // `name` has at most 15 characters. kExhausted if the system gives no further thread.
  static Result<Thread> start(const char* name, std::function<void()> body);

  // The same for a thread that nobody waits for. False if there is none to be had.
  static bool start_detached(const char* name, std::function<void()> body);

  Thread() = default;
  Thread(Thread&& other) noexcept;
  Thread& operator=(Thread&& other) noexcept;
  ~Thread() { join(); }

  void join() noexcept;

 private:
  explicit Thread(pthread_t id) : id_(id), running_(true) {}

  pthread_t id_{};
  bool running_ = false;
};

// Runs body(0) ... body(count - 1) at once, each on a thread of its own, and waits for all; gives the first failure. For what
// waits for the peer: a row of such waits takes as long as one.
Status run_together(size_t count, const std::function<Status(size_t)>& body);

// Asks for short time slices for the calling thread, which others wake by what they send it. Without them it can wait for a
// millisecond on the processor on which it was woken until the sender, who is still at work there, has used up his own. No
// privilege is needed; kernels before Linux 6.12 give every thread the same slices.
void prefer_short_slices() noexcept;

inline void relax_cpu() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Exists while a thread of this process moves bulk data through a socket.
class Moving {
 public:
  Moving() { threads_.fetch_add(1, std::memory_order_relaxed); }
  ~Moving() { threads_.fetch_sub(1, std::memory_order_relaxed); }
  Moving(const Moving&) = delete;
  static bool any() { return threads_.load(std::memory_order_relaxed) > 0; }

 private:
  static inline std::atomic<int> threads_{0};
};

// For how long a thread that waits polls before it sleeps, since to wake it takes long. While bulk data is moved it offers its
// processor to those who move it every now and then: together they can be more than there are.
class LookOut {
 public:
  template <typename Rep, typename Period>
  LookOut(std::chrono::duration<Rep, Period> time) : time_(time) {}

  // It begins with the first question, and again when it is restarted.
  bool over() {
    if (time_.count() <= 0) return true;
    const auto now = std::chrono::steady_clock::now();
    if (end_ == std::chrono::steady_clock::time_point{}) end_ = now + time_;
    if (now >= end_) return true;
    if (now >= yield_) {
      if (yield_ != std::chrono::steady_clock::time_point{} && Moving::any()) sched_yield();
      yield_ = now + kYield;
    }
    return false;
  }
  void restart() { end_ = std::chrono::steady_clock::now() + time_; }

 private:
  static constexpr std::chrono::microseconds kYield{5};

  const std::chrono::nanoseconds time_;
  std::chrono::steady_clock::time_point end_{}, yield_{};
};

// The pauses of a thread that polls. A look takes from whoever shares the processor's core, and a system call from the kernel's
// locks: after the first moments, in which most answers come, the longer nothing came the rarer the looks get, which makes what
// comes then late by an eighth of the wait at most.
class Blink {
 public:
  void pause() {
    const auto next = now_ + std::clamp<Clock::duration>((now_ - start_ - kEager) / 8, Clock::duration(0), kLongest);
    do {
      for (int i = 0; i < 8; ++i) relax_cpu();
      now_ = Clock::now();
    } while (now_ < next);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds kEager{20}, kLongest{5};
  const Clock::time_point start_ = Clock::now();
  Clock::time_point now_ = start_;
};

// The right to do what one thread at a time may do, whichever of several it is: to receive from a stream. What its holders write,
// later ones see.
class Baton {
 public:
  bool take() {
    if (held() || held_.exchange(true, std::memory_order_seq_cst)) return false;
    taken_.store(taken_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return true;
  }
  void give() { held_.store(false, std::memory_order_seq_cst); }
  bool held() const { return held_.load(std::memory_order_seq_cst); }
  // How often it has been taken.
  uint64_t taken() const { return taken_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> held_{false};
  std::atomic<uint64_t> taken_{0};
};

// True where a thread that polls does not take the processor from the one it waits for.
inline bool processors_to_spare() {
  static const bool yes = std::thread::hardware_concurrency() > 4;
  return yes;
}

}  // namespace bf::transport
