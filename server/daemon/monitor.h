// The server's readings of its GPUs. A child, `bfworker --monitor`, asks the vendor's NVML; this class starts it,
// starts it again when it dies, and keeps the last sample for everybody.
//
// A sample is taken when somebody wants one and the last is more than kSampleAge old; all who ask meanwhile wait for
// the same one. So an idle server samples no more than its watch wants, and a crowd costs one sample a second.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/limits.h"
#include "proto/control.h"
#include "server/daemon/event_loop.h"
#include "server/daemon/inventory.h"

namespace bf::daemon {

class Monitor {
  using Clock = EventLoop::Clock;

 public:
  static constexpr auto kSampleAge = std::chrono::milliseconds(950);  // a client that asks once a second gets a new one
  static constexpr auto kPatience = std::chrono::seconds(2);          // how long somebody who asks may wait
  static constexpr auto kHang = std::chrono::seconds(30);             // a sample that takes longer: the child is ended
  static constexpr size_t kWaiting = limits::kIdleConnections;

  struct Reading {
    uint32_t index = 0;  // in the server's NVML
    uint64_t facts_version = 0;
    uint64_t sample_version = 0;
    uint64_t sample_unix_us = 0;
    std::string facts{};  // encoded NvmlAnswers
    std::string sample{};
    // For bf health.
    uint64_t uncorrected_errors = 0;
    bool remapping_failed = false;
    bool lost = false;  // NVML says that the GPU is gone
    uint32_t slowdown_c = 0;
  };

  // `gpus` gets what people look at: temperature, power, utilisation.
  Monitor(EventLoop& loop, const WorkerSetup& setup, std::vector<GpuState>& gpus);
  ~Monitor();
  Monitor(const Monitor&) = delete;

  void start();
  // True if nothing better than what is there can be had now: the sample is young, or there is nobody to take one.
  bool fresh() const {
    return !control_ || (sampled_at_ != Clock::time_point{} && Clock::now() - sampled_at_ < kSampleAge);
  }
  // Runs `then` when that is so, at the latest after kPatience. False if too many wait already.
  bool when_fresh(std::function<void()> then);
  // What is known of the GPU, by its position in the inventory; versions are 0 as long as nothing is.
  const Reading& reading(size_t gpu) const { return readings_[gpu]; }
  const std::string& system() const { return system_; }
  bool running() const { return pid_ > 0; }
  Clock::time_point sampled_at() const { return sampled_at_; }

  // SIGCHLD came.
  void reap();

 private:
  void ask();
  void on_message();
  void take(control::MonitorReport report);
  void answer_all();
  void end_child();
  void start_again();

  EventLoop& loop_;
  const WorkerSetup& setup_;
  std::vector<GpuState>& gpus_;
  std::vector<Reading> readings_;
  std::string system_;
  uint64_t version_ = 0;

  pid_t pid_ = -1;
  Fd control_;
  bool asked_ = false;
  uint32_t failures_ = 0;  // in a row
  Clock::time_point sampled_at_{};
  EventLoop::TimerId hang_{}, patience_{}, restart_{};
  std::vector<std::function<void()>> waiting_;
};

}  // namespace bf::daemon
