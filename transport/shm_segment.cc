#include "transport/shm_segment.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace bf::transport::shm {
namespace {

// Not FUTEX_PRIVATE: the sleeper is in another process.
void wake(Bell& bell) { syscall(SYS_futex, &bell.asleep, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace

void ring_bell(Bell& bell) noexcept {
  if (bell.asleep.load(std::memory_order_seq_cst) == 0) return;
  bell.asleep.store(0, std::memory_order_seq_cst);
  wake(bell);
}

void force_bell(Bell& bell) noexcept {
  bell.asleep.store(0, std::memory_order_seq_cst);
  wake(bell);
}

void sleep_on_bell(Bell& bell) noexcept {
  timespec limit{0, 300'000'000};
  syscall(SYS_futex, &bell.asleep, FUTEX_WAIT, 1, &limit, nullptr, 0);
}

}  // namespace bf::transport::shm
