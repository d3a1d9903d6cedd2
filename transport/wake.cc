#include "transport/wake.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

namespace bf::transport {

Wake::Wake() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void Wake::raise() noexcept {
  const uint64_t one = 1;
  if (write(fd(), &one, sizeof one) < 0) return;  // raised already
}

void Wake::lower() noexcept {
  uint64_t raised;
  if (read(fd(), &raised, sizeof raised) < 0) return;  // lowered already
}

}  // namespace bf::transport
