// bfrun --stats: the memory in which the program's processes count their calls (proto/stats.h), and what it says at the end.
#pragma once

#include <chrono>
#include <string>

#include "base/fd.h"
#include "base/status.h"
#include "proto/stats.h"

namespace bf::tools {

class Stats {
 public:
  // Makes the memory and names it in BF_STATS.
  static Result<Stats> begin();
  Stats(Stats&& other) noexcept;
  ~Stats();

  // For people: calls by kind, bytes, waits, and the functions that were waited for most.
  std::string summary() const;

 private:
  Stats(Fd file, StatsMemory* memory) : file_(std::move(file)), memory_(memory) {}
  Fd file_;  // processes open it by our /proc/PID/fd, so it leaves nothing behind
  StatsMemory* memory_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace bf::tools
