// Who was refused and asks again: so that a stream of small requests does not starve a large one.
//
// A refused request keeps its place, by the time it first asked, for as long as its connection asks again. Before a
// later request is granted, what earlier ones wait for is taken out of what it may see: their share if it is free by
// now, else the GPUs that will be free for them first. What is left over goes to whoever asks (backfill).
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "proto/control.h"
#include "server/daemon/placement.h"

namespace bf::daemon {

class WaitingList {
 public:
  using Clock = std::chrono::steady_clock;
  // Who has not asked again for so long has lost its place. Clients ask at least every three seconds.
  static constexpr auto kPatience = std::chrono::seconds(4);
  static constexpr size_t kWaiting = 4096;

  void refused(uint64_t connection, const control::LeaseRequest& request, Clock::time_point now);
  void forget(uint64_t connection);
  // The GPUs as `connection` may see them.
  std::vector<GpuState> visible(std::span<const GpuState> gpus, uint64_t connection, Clock::time_point now) const;
  size_t size() const { return waiting_.size(); }

 private:
  struct Waiter {
    uint64_t connection;
    Clock::time_point last_asked;
    control::LeaseRequest request;
  };
  std::vector<Waiter> waiting_;  // oldest first
};

}  // namespace bf::daemon
