// Waiting, the cheap way: a lock for sections of a few instructions, and futex words. Waiters spin briefly where a
// second processor can make progress meanwhile, then sleep in the kernel. Not fair, not recursive.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

#include "transport/thread.h"

namespace bf::client {

inline void futex_wait(const std::atomic<uint32_t>& word, uint32_t expected, const timespec* timeout = nullptr) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, timeout, nullptr, 0);
}
inline void futex_wake(const std::atomic<uint32_t>& word, int waiters) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, waiters, nullptr, nullptr, 0);
}

// futex_wait(), but looks for a while before it sleeps: waking a processor takes longer than most waits here.
inline void futex_wait_eagerly(const std::atomic<uint32_t>& word, uint32_t expected) {
  constexpr std::chrono::microseconds kSpin{2000};
  for (transport::LookOut look(transport::processors_to_spare() ? kSpin : std::chrono::microseconds(0)); !look.over();)
    for (int i = 0; i < 32; ++i, transport::relax_cpu())
      if (word.load(std::memory_order_acquire) != expected) return;
  futex_wait(word, expected);
}

class SpinLock {
 public:
  void lock() noexcept {
    uint32_t free = 0;
    if (!state_.compare_exchange_strong(free, 1, std::memory_order_acquire)) lock_contended();
  }
  void unlock() noexcept {
    if (state_.exchange(0, std::memory_order_release) == 2) futex_wake(state_, 1);
  }

 private:
  void lock_contended() noexcept {
    for (int spin = transport::processors_to_spare() ? 200 : 0; spin > 0; --spin) {
      uint32_t free = 0;
      if (state_.load(std::memory_order_relaxed) == 0 &&
          state_.compare_exchange_strong(free, 1, std::memory_order_acquire)) {
        return;
      }
      transport::relax_cpu();
    }
    while (state_.exchange(2, std::memory_order_acquire) != 0) futex_wait(state_, 2);
  }

  std::atomic<uint32_t> state_{0};  // 0 free, 1 held, 2 held and somebody sleeps
};

}  // namespace bf::client
