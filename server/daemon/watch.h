// The server's own watch: takes a GPU, or the whole server, out of offering when it cannot be relied on, and says why. What
// runs is left alone: it notices by itself, or does not.
//
// A GPU is out while its readings say so (lost, memory that fails), from a grave Xid in the kernel's log until bfserver is
// started again - the card wants a reset before that - and while NVML, which answered before, does not. The server is out
// while it has no memory or disk to spare, its certificate is over, or its clock cannot be right.
#pragma once

#include <array>
#include <chrono>
#include <ctime>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "server/daemon/event_loop.h"
#include "server/daemon/monitor.h"

namespace bf::daemon {

// What a machine needs to be of use.
struct Vitals {
  uint64_t memory_free_mib = 0, memory_mib = 0;
  uint64_t disk_free_mib = 0;   // where the state lies
  std::string disk;             // that folder; empty: none is kept
  time_t certificate_expires = 0;  // 0: has none
  time_t now = 0;
};
Vitals read_vitals(const std::string& state_dir, time_t certificate_expires);
// Why such a server should offer nothing; empty if it may.
std::string unfit(const Vitals& vitals);
// Why such a GPU should not be offered; empty if it may.
std::string unfit(const Monitor::Reading& reading);

// "NVRM: Xid (PCI:0000:3b:00): 79, ...": an error after which the card, not only a program, is in doubt.
struct Xid {
  std::string pci;  // 0000:3b:00
  uint32_t number = 0;
};
std::optional<Xid> grave_xid(const std::string& line);

class Watch {
 public:
  static constexpr auto kPeriod = std::chrono::seconds(10);
  static constexpr auto kNvmlSilence = std::chrono::seconds(45);

  using Say = std::function<void(const std::string& who, const std::string& what)>;  // "" for what: it is well again

  Watch(EventLoop& loop, Monitor& monitor, std::vector<GpuState>& gpus, Say say)
      : loop_(loop), monitor_(monitor), gpus_(gpus), say_(std::move(say)), xids_(gpus.size()) {}
  ~Watch();
  Watch(const Watch&) = delete;

  // `kernel_log` is /dev/kmsg, or what stands in for it; one that cannot be read is left out.
  void start(const std::string& kernel_log, std::function<Vitals()> vitals);
  // Why the server offers nothing at present; empty if it does.
  const std::string& server_note() const { return server_note_; }
  bool reads_kernel_log() const { return bool(kernel_log_); }

 private:
  void look();
  void read_kernel_log();
  void take(const std::string& line);
  void judge();
  void put(size_t gpu, const std::string& why);

  EventLoop& loop_;
  Monitor& monitor_;
  std::vector<GpuState>& gpus_;
  Say say_;
  std::function<Vitals()> vitals_;
  Fd kernel_log_;
  EventLoop::TimerId timer_{};
  std::vector<std::string> xids_;  // why each GPU is out for good
  std::string server_note_;
  EventLoop::Clock::time_point nvml_seen_{};  // never: NVML has not answered yet, and is not missed
};

}  // namespace bf::daemon
