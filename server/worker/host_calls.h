// Host functions: the driver calls us on a thread of its own when a stream reaches one; we ask the client to run it,
// over the side stream, and keep the stream waiting until the client says that it has.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "proto/api/cuda_api.h"
#include "server/worker/graphs.h"
#include "server/worker/mirrors.h"
#include "server/worker/outbox.h"
#include "server/worker/recorder.h"
#include "transport/transport.h"

namespace bf::server {

class HostCalls {
 public:
  HostCalls(transport::Stream& side, Outbox& outbox, Mirrors& mirrors, GraphStaging& staging, Recorder& recorder,
            std::function<void(Status)> end)
      : side_(side), outbox_(outbox), mirrors_(mirrors), staging_(staging), recorder_(recorder), end_(std::move(end)) {}
  ~HostCalls();

  void start();  // the side thread
  void stop();   // everybody who waits goes on; from any thread
  void join();

  // What the driver is to be given: the function and its argument. Lives until it has run; with `repeats` (graph
  // nodes), until the session ends. `deliver`: staging that goes to the client before the function runs; `fetch`: that
  // comes from it afterwards.
  void* argument(uint64_t id, bool repeats, std::vector<StagingRef> deliver = {}, std::vector<StagingRef> fetch = {});
  // The same for another function.
  void* argument_like(void* other, uint64_t id);
  static uint64_t id_of(void* argument);
  static bool moves_data(void* argument);
  // The driver refused it.
  void forget(void* argument);
  static void CUDA_CB run(void* argument);
  static void CUDA_CB run_callback(CUstream stream, CUresult status, void* argument);

 private:
  struct Function {
    HostCalls* owner = nullptr;
    uint64_t id = 0;
    bool repeats = false;
    std::vector<StagingRef> deliver, fetch;
  };
  void ask(Function& function, CUresult status);
  void side_loop();
  Status deliver(uint64_t staging);
  Status read_changes(std::span<const std::byte> patches);
  Status read_done(std::span<const std::byte> body);
  Status read_data(std::span<const std::byte> body, std::span<const std::byte> bytes);
  Status send_trace();

  transport::Stream& side_;
  Outbox& outbox_;
  Mirrors& mirrors_;
  GraphStaging& staging_;
  Recorder& recorder_;
  std::function<void(Status)> end_;
  std::mutex send_mutex_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<uint64_t, uint32_t> asked_;  // id -> requests without an answer
  std::unordered_map<Function*, std::unique_ptr<Function>> functions_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace bf::server
