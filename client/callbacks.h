// Host functions and stream callbacks: code of the program that runs in stream order, here in the client.
//
// The worker asks on the side stream, never behind calls; one thread runs the functions one after another and says when
// each is done. A CUDA call made inside one is an error (CUDA_ERROR_NOT_PERMITTED), as with the real driver.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>

#include "client/futex.h"
#include "client/landing.h"
#include "proto/api/cuda_api.h"
#include "transport/transport.h"

namespace bf::client {

class Callbacks {
 public:
  struct Function {
    CUhostFn function = nullptr;
    CUstreamCallback stream_callback = nullptr;  // exactly one of the two
    void* user = nullptr;
    CUstream stream = nullptr;
    bool repeats = false;  // part of a graph: may run any number of times
  };

  // Remembers a function; the id travels. A function that does not repeat is forgotten once it has run.
  uint64_t add(const Function& function);
  void remove(uint64_t id);

  // The thread's loop: until the side stream ends. `landing` knows when the data that a function may see is there.
  Status run(transport::Stream& side, Landing& landing);

  // May host functions still be running or waiting to run? Then host memory may yet change in stream order.
  bool outstanding() const {
    return outstanding_.load(std::memory_order_acquire) > 0 ||
           graphs_launched_.load(std::memory_order_acquire) > graphs_completed_.load(std::memory_order_acquire);
  }
  // A graph with host functions was launched. Counts such launches.
  void graph_launched() { graphs_launched_.fetch_add(1, std::memory_order_release); }
  uint64_t graphs_launched() const { return graphs_launched_.load(std::memory_order_acquire); }
  // The first `launches` of them have completed.
  void graphs_completed(uint64_t launches);

  // What an id stands for; nothing once it was forgotten.
  std::optional<Function> find(uint64_t id) const;

  // Asks the worker for what it has recorded; the answer goes to the trace (client/trace.h).
  Status ask_for_trace(transport::Stream& side);

  // True while a function of the program runs that must not make CUDA calls.
  static bool inside();
  class Inside {
   public:
    Inside();
    ~Inside();

   private:
    bool before_;
  };

 private:
  Status run_one(transport::Stream& side, Landing& landing, std::span<const std::byte> body);
  Status send_staging(transport::Stream& side, uint64_t staging);

  std::mutex send_mutex_;  // of the side stream
  mutable SpinLock lock_;
  std::unordered_map<uint64_t, Function> functions_;
  uint64_t next_ = 1;
  std::atomic<uint32_t> outstanding_{0};
  std::atomic<uint64_t> graphs_launched_{0}, graphs_completed_{0};
};

}  // namespace bf::client
