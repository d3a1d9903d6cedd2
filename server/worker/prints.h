// What device code prints. The driver writes it to the worker's standard output (and assertions to standard error) when
// the client synchronises; both descriptors are files in memory, so that the session can pass on what is new.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <span>

#include "base/fd.h"
#include "base/status.h"

namespace bf::server {

class Prints {
 public:
  // Replaces descriptors 1 and 2 of this process. Our own log moves to a copy of the old standard error.
  static Result<Prints> capture();
  Prints(Prints&&) = default;

  // Calls `send(1 or 2, bytes)` for what was printed since, in slices of at most kInlineBytes. One caller at a time.
  void collect(const std::function<void(int, std::span<const std::byte>)>& send);

 private:
  struct File {
    Fd memory;
    size_t sent = 0;
  };
  explicit Prints(std::array<File, 2> files) : files_(std::move(files)) {}
  std::array<File, 2> files_;
};

}  // namespace bf::server
