// BF_TRACE: a trace of the session in the form that Perfetto and chrome://tracing read (docs/tracing.md).
//
// bfrun makes the file and ends it; every process under it appends whole lines, so one file holds them all and stays
// readable however they end. Threads only put down what happened; a thread of ours writes it out several times a second
// and asks the worker for its records (proto/trace.h), whose clock it brings in line by the quickest answer.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "client/callbacks.h"

namespace bf::client {

// A call of the program, or a wait within one.
struct TraceCall {
  const char* name = nullptr;
  uint64_t begin_ns = 0, end_ns = 0;
  uint64_t wait_ns = 0;
  uint64_t bytes_up = 0, bytes_down = 0;
  uint32_t posts = 0, round_trips = 0;  // both 0: a wait
};

class Trace {
 public:
  static Trace& instance();

  // False: the file cannot be written.
  bool open(const char* path);
  void add(const TraceCall& call);

  // The thread's loop, until finish(). `session`: gives the worker's side, asked over its callbacks' stream.
  void run(Callbacks& callbacks, transport::Stream& side);
  // Until the worker has answered once, and so records all that comes, or cannot any more; at most `timeout_ms`.
  void wait_for_worker(int timeout_ms);
  // The answer of the worker. False: nobody asked, or it is malformed.
  bool worker_answers(std::span<const std::byte> payload);
  // At the end of the process: takes what the worker still has, if it answers in `timeout_ms`, and writes out all.
  void finish(int timeout_ms);

 private:
  struct Event {
    TraceCall call;
    int thread;
  };
  bool ask(Callbacks& callbacks, transport::Stream& side);
  void write_out();

  Fd file_;
  int process_ = 0;
  std::mutex mutex_;
  std::vector<Event> events_;    // not yet written; under mutex_
  std::string worker_;           // lines of the worker's, under mutex_
  uint64_t dropped_ = 0;         // under mutex_
  uint64_t asked_ns_ = 0;        // 0: no request is under way; under mutex_
  uint64_t quickest_ns_ = UINT64_MAX;
  uint64_t worst_ns_ = 0;        // the slowest of those that records were put in line by
  int64_t offset_ns_ = 0;        // of the worker's clock from ours, by the quickest answer; under mutex_
  bool more_ = false;            // the last answer was full; under mutex_
  std::atomic<uint32_t> word_{0};      // futex: something for run() to do
  std::atomic<uint32_t> recording_{0}; // the worker has answered
  std::atomic<uint32_t> stage_{0};     // of the end: 1 wanted, 2 all there
};

}  // namespace bf::client
