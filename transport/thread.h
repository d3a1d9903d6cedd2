// The threads of a transport. They live inside other people's programs, so they take no signal meant for the program
// and little memory.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
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

// For how long a thread that waits polls before it sleeps, since to wake it takes long: `time`, and as long again whenever that
// is over and `again` says so. While bulk data is moved it offers its processor to those who move it every now and then: together
// they can be more than there are.
class LookOut {
 public:
  // `again` outlives this; it may be empty.
  template <typename Rep, typename Period>
  LookOut(std::chrono::duration<Rep, Period> time, const std::function<bool()>* again = nullptr) : time_(time), again_(again) {}

  // Begins with the first question.
  bool over() {
    if (time_.count() <= 0) return true;
    const auto now = std::chrono::steady_clock::now();
    if (end_ == std::chrono::steady_clock::time_point{}) {
      end_ = now + time_;
      yield_ = now + kYield;
    }
    if (now >= end_) {
      if (!again_ || !*again_ || !(*again_)()) return true;
      end_ = now + time_;
    }
    if (now >= yield_) {
      if (Moving::any()) sched_yield();
      yield_ = now + kYield;
    }
    return false;
  }

 private:
  static constexpr std::chrono::microseconds kYield{5};

  const std::chrono::nanoseconds time_;
  const std::function<bool()>* const again_;
  std::chrono::steady_clock::time_point end_{}, yield_{};
};

// True where a thread that polls does not take the processor from the one it waits for.
inline bool processors_to_spare() {
  static const bool yes = std::thread::hardware_concurrency() > 4;
  return yes;
}

}  // namespace bf::transport
