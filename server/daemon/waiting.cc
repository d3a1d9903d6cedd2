#include "server/daemon/waiting.h"

#include <algorithm>

namespace bf::daemon {
namespace {

void occupy(GpuState& gpu, uint64_t bytes) {
  gpu.promised_bytes += std::min(bytes, gpu.free_bytes());
  gpu.leases++;
}

// Keeps free what `request` is going to get: the share it would get now, or else the GPUs nearest to being free.
void set_aside(std::vector<GpuState>& gpus, const control::LeaseRequest& request) {
  if (auto shares = place(gpus, request); shares.ok()) {
    for (auto& share : *shares) occupy(gpus[share.gpu], share.bytes);
    return;
  }
  std::vector<size_t> order;
  for (size_t i = 0; i < gpus.size(); i++)
    if (gpus[i].facts.healthy && allowed(gpus[i], request)) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return gpus[a].free_bytes() > gpus[b].free_bytes(); });
  for (size_t i = 0; i < std::min<size_t>(order.size(), request.gpus); i++)
    occupy(gpus[order[i]], gpus[order[i]].capacity_bytes);
}

}  // namespace

void WaitingList::refused(uint64_t connection, const control::LeaseRequest& request, Clock::time_point now) {
  std::erase_if(waiting_, [&](auto& waiter) { return now - waiter.last_asked > kPatience; });
  for (auto& waiter : waiting_)
    if (waiter.connection == connection) {
      waiter.last_asked = now;
      waiter.request = request;
      return;
    }
  if (waiting_.size() < kWaiting) waiting_.push_back({connection, now, request});
}

void WaitingList::forget(uint64_t connection) {
  std::erase_if(waiting_, [&](auto& waiter) { return waiter.connection == connection; });
}

std::vector<GpuState> WaitingList::visible(std::span<const GpuState> gpus, uint64_t connection,
                                           Clock::time_point now) const {
  std::vector<GpuState> left(gpus.begin(), gpus.end());
  for (auto& waiter : waiting_) {
    if (waiter.connection == connection) break;  // who comes after us does not count
    if (now - waiter.last_asked > kPatience) continue;
    if (std::none_of(left.begin(), left.end(), [](auto& gpu) { return gpu.free_bytes() > 0; })) break;
    set_aside(left, waiter.request);
  }
  return left;
}

}  // namespace bf::daemon
