// A CUDA driver of a few functions for tests of the worker: device memory is host memory, every stream is one queue
// that a thread works off, and some things can be made to fail.
#pragma once

#include <atomic>
#include <climits>
#include <cstdint>

#include "api/driver_api.h"

namespace bf::test {

struct FakeDriver {
  // One at a time per process, because driver functions have no argument to tell them apart.
  FakeDriver();
  ~FakeDriver();

  DriverApi api;
  std::atomic<int> queue_delay_us{0};  // before every queued operation
  std::atomic<bool> fault{false};      // queued operations are dropped and everything says ILLEGAL_ADDRESS
  std::atomic<int> boxes{INT_MAX};     // copies of boxes that succeed
  std::atomic<int> allocations{0};     // live ones
  std::atomic<int> waiting{0};         // threads that wait for the queue
  bool stream_memory = true;           // cuStreamWriteValue64 exists; else host functions write the words
};

}  // namespace bf::test
