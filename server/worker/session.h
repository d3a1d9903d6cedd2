// One session on the worker: everything that serves one client process, and the loop that does it.
//
// Threads: the reader (the caller of serve()) splits the call stream; a twin per lane runs calls (order.h); the
// completion thread moves finished copies (copies.h); the side thread takes answers of host functions (host_calls.h).
// A session ends when the client closes, the link fails or the peer breaks the protocol; whoever notices calls end().
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "api/dispatch.h"
#include "proto/control.h"
#include "server/ledger.h"
#include "server/worker/charges.h"
#include "server/worker/contexts.h"
#include "server/worker/copies.h"
#include "server/worker/functions.h"
#include "server/worker/graphs.h"
#include "server/worker/handles.h"
#include "server/worker/host_calls.h"
#include "server/worker/images.h"
#include "server/worker/links.h"
#include "server/worker/mirrors.h"
#include "server/worker/order.h"
#include "server/worker/pools.h"
#include "server/worker/prepared.h"
#include "server/worker/prints.h"
#include "server/worker/reader.h"
#include "server/worker/recorder.h"
#include "transport/transport.h"

namespace bf::server {

// How a session ended tells whether its client is still there, and has lost it.
inline bool client_left(const Status& why) {
  return why.code() == StatusCode::kUnavailable || why.code() == StatusCode::kTimeout;
}

struct SessionConfig {
  // The session's devices: number i is the driver's device i.
  struct Device {
    uint64_t limit_bytes = 0;
    uint64_t context_bytes = 0;
    size_t partition = 0;  // in the ledger
  };
  std::vector<Device> devices;
  Ledger* ledger = nullptr;  // null: a private one with the devices' limits
  uint32_t ledger_slot = 0;
  bool software = false;
  std::string image_salt;      // of the server's image cache
  ImageStore* images = nullptr;  // null: there is none
  uint32_t spin_us = 0;      // how long idle threads of a busy session poll; 0 where there are no processors to spare
  Prints* prints = nullptr;  // null: what device code prints is not captured
  // At most once a second while calls come, and once at the end with the reason.
  std::function<void(const control::WorkerReport&)> report;
  // Runs once when the session ends, on the thread that notices. A worker process leaves here.
  std::function<void(const Status& why)> ended;
};

// Serves until the session ends; returns why. kUnavailable "the client left" is the ordinary end. Returns when all
// threads have ended, so only after the driver has returned from every call.
Status serve_session(transport::Link& link, Prepared& prepared, const SessionConfig& config);
Status serve_session(transport::Link& link, const DriverApi& driver, const SessionConfig& config);

class Session final : public Order::Runner {
 public:
  Session(transport::Link& link, Prepared& prepared, const SessionConfig& config, Ledger& ledger);
  ~Session();

  Status serve();
  // From any thread. Only the first call counts.
  void end(Status why) noexcept;
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  // The peer broke the protocol.
  void violation(const Call& call, const char* what);
  // A result the driver gave. Sticky errors mean that copies under way never finish.
  void note_result(CUresult result);
  // Would anything get on if `call`, a post, gave up its turn? A call that waits for the same stream would not.
  bool holds_up(const Call& call, CUstream stream);
  // A new context: errors of an older one are history.
  void forget_errors() { last_async_error_.store(0, std::memory_order_relaxed); }

  void run(const Frame& frame, Turn& turn) override;
  void idle(const std::function<bool()>& waits, transport::LookOut time) override;
  void no_thread(uint32_t lane) override;

  transport::Link& link;
  const DriverApi& driver;
  Prepared& prepared;
  const SessionConfig& config;
  HandleTables handles;
  Recorder recorder;
  Inbox inbox;
  Outbox outbox;
  Copies copies;
  Charges charges;
  Mirrors mirrors;
  Contexts contexts;
  Pools pools;
  Images images;
  Functions functions;
  Links links;
  GraphStaging graph_staging;
  HostCalls host_calls;
  Graphs graphs;

 private:
  class LaneCall;
  LaneCall& lane_call(uint32_t lane);
  void finish(const Dispatch& entry, LaneCall& call);
  void send_prints();
  void report_now(const std::string& reason, bool lost);
  void report_loop();
  void wake_reporter() noexcept;

  std::unique_ptr<std::unique_ptr<LaneCall>[]> lanes_;  // each touched by its twin only
  std::atomic<uint64_t> calls_{0};
  std::atomic<int> last_async_error_{0};
  std::atomic<bool> ended_{false};
  std::mutex end_mutex_;
  Status why_;
  std::mutex prints_mutex_;
  std::atomic<uint32_t> outstanding_{0};  // calls and posts in the driver
  std::mutex report_mutex_;
  std::condition_variable report_wake_;    // the session has ended, or:
  std::atomic<bool> report_sleeps_{false};  // until there is a call
  BlockPool pool_;
  std::optional<Order> order_;
  std::optional<Reader> reader_;
};

// What hand-written handlers begin with.
inline Session& session_of(Call& call) { return *call.session; }

// Copies `bytes` into the call's arena, for extra_out fields. Empty if they do not fit.
std::span<const std::byte> keep(Call& call, std::string_view bytes);

}  // namespace bf::server
