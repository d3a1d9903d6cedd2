// A descriptor that ends a poll(2).
#pragma once

#include "base/fd.h"

namespace bf::transport {

// Raised, it wakes every thread that sleeps on fd(), and whoever comes to sleep there, until it is lowered.
class Wake {
 public:
  Wake();
  void raise() noexcept;
  void lower() noexcept;
  // Readable while raised. -1, which poll(2) passes over, if there was no descriptor to be had.
  int fd() const { return fd_.get(); }

 private:
  Fd fd_;
};

}  // namespace bf::transport
