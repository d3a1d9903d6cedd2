// What device code prints. The driver writes it to the worker's standard output (and assertions to standard error) when
// the client synchronises, through stdio: measured on driver 580.159.04, which takes `stdout` and `stderr` as they stand at
// that moment and flushes. Both are files in memory of ours, so that to see that nothing was printed takes no system call.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/status.h"

namespace bf::server {

class Prints {
 public:
  // Replaces `stdout` and `stderr` of this process until it is destroyed; descriptors 1 and 2 stay what they are.
  static Result<Prints> capture();
  Prints(Prints&&) = default;
  ~Prints();

  // Calls `send(1 or 2, bytes)` for what was printed since, in slices of at most 16 KiB. One caller at a time.
  void collect(const std::function<void(int, std::span<const std::byte>)>& send);

 private:
  struct Text {
    std::mutex mutex;
    std::string bytes;                  // under mutex
    std::atomic<bool> anything{false};  // written under mutex
    FILE* file = nullptr;
    FILE* before = nullptr;
  };
  Prints() = default;
  std::array<std::unique_ptr<Text>, 2> texts_;
};

}  // namespace bf::server
