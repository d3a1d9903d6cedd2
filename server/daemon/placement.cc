#include "server/daemon/placement.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/limits.h"

namespace bf::daemon {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kBlockBytes = 2 * kMiB;        // what a driver backs allocations with
constexpr uint64_t kLeastUsefulBytes = 2 * kMiB;  // beyond the context

std::string mib(uint64_t bytes) { return std::to_string(bytes / kMiB) + " MiB"; }
std::string count_of_gpus(size_t n) { return std::to_string(n) + (n == 1 ? " GPU" : " GPUs"); }

Status check_request(const control::LeaseRequest& request) {
  if (request.gpus == 0) return {StatusCode::kInvalid, "ask for at least one GPU"};
  if (request.gpus > limits::kDevices)
    return {StatusCode::kInvalid, "a lease holds at most " + count_of_gpus(limits::kDevices)};
  if (request.memory_bytes > 0 && request.fraction != 0)
    return {StatusCode::kInvalid, "give either an amount of memory or a fraction, not both"};
  if (!(request.fraction >= 0 && request.fraction <= 1))
    return {StatusCode::kInvalid, "a fraction of a GPU is above 0 and at most 1"};
  return {};
}

// What the request means on this GPU.
uint64_t wanted_bytes(const GpuState& gpu, const control::LeaseRequest& request) {
  if (request.memory_bytes > 0) return request.memory_bytes;
  if (wants_whole(request)) return gpu.capacity_bytes;
  auto bytes = uint64_t(double(gpu.capacity_bytes) * request.fraction);
  return bytes / kBlockBytes * kBlockBytes;
}

bool possible(const GpuState& gpu, uint64_t bytes) {
  return gpu.facts.healthy && bytes <= gpu.capacity_bytes && bytes >= gpu.facts.context_bytes + kLeastUsefulBytes;
}

Status why_impossible(std::span<const GpuState> gpus, const control::LeaseRequest& request) {
  const GpuState* biggest = nullptr;
  uint64_t most_context = 0;
  size_t healthy = 0;
  bool chosen = !request.gpu_uuids.empty();
  for (auto& gpu : gpus) {
    if (!gpu.facts.healthy || !allowed(gpu, request)) continue;
    healthy++;
    most_context = std::max(most_context, gpu.facts.context_bytes);
    if (biggest == nullptr || gpu.capacity_bytes > biggest->capacity_bytes) biggest = &gpu;
  }
  if (biggest == nullptr) return {StatusCode::kImpossible, chosen ? "none of the GPUs that the filters leave works" : "this server has no working GPU"};
  std::string has = "its biggest GPU is " + biggest->facts.name + " with " + mib(biggest->capacity_bytes);
  if (healthy < request.gpus)
    return {StatusCode::kImpossible,
            (chosen ? "the filters leave " : "this server has ") + count_of_gpus(healthy) + ", not " + std::to_string(request.gpus) + "; " + has};
  uint64_t bytes = wanted_bytes(*biggest, request);
  if (bytes < most_context + kLeastUsefulBytes)
    return {StatusCode::kImpossible, mib(bytes) + " is too little: a CUDA context alone takes " + mib(most_context) +
                                         " here; ask for at least " + mib(most_context + kLeastUsefulBytes + kMiB - 1)};
  return {StatusCode::kImpossible,
          "this server cannot give " + mib(bytes) + " on " + count_of_gpus(request.gpus) + "; " + has};
}

}  // namespace

bool allowed(const GpuState& gpu, const control::LeaseRequest& request) {
  auto& wanted = request.gpu_uuids;
  return wanted.empty() || std::find(wanted.begin(), wanted.end(), gpu.facts.uuid) != wanted.end();
}

bool wants_whole(const control::LeaseRequest& request) {
  return request.memory_bytes == 0 && (request.fraction == 0 || request.fraction == 1);
}

Result<std::vector<Share>> place(std::span<const GpuState> gpus, const control::LeaseRequest& request) {
  BF_RETURN_IF_ERROR(check_request(request));
  std::vector<Share> fitting;
  size_t could_fit = 0;
  for (size_t i = 0; i < gpus.size(); i++) {
    if (!allowed(gpus[i], request)) continue;
    uint64_t bytes = wanted_bytes(gpus[i], request);
    if (!possible(gpus[i], bytes)) continue;
    could_fit++;
    bool free_now = wants_whole(request) ? gpus[i].leases == 0 : bytes <= gpus[i].free_bytes();
    if (free_now) fitting.push_back({i, bytes});
  }
  if (could_fit < request.gpus) return why_impossible(gpus, request);
  if (fitting.size() < request.gpus)
    return Status{StatusCode::kExhausted, "only " + count_of_gpus(fitting.size()) + " can give that at the moment, " +
                                              std::to_string(request.gpus) + " are needed"};
  std::stable_sort(fitting.begin(), fitting.end(), [&](const Share& a, const Share& b) {
    uint64_t left_a = gpus[a.gpu].free_bytes() - a.bytes, left_b = gpus[b.gpu].free_bytes() - b.bytes;
    return request.spread ? left_a > left_b : left_a < left_b;
  });
  fitting.resize(request.gpus);
  std::sort(fitting.begin(), fitting.end(), [](const Share& a, const Share& b) { return a.gpu < b.gpu; });
  return fitting;
}

}  // namespace bf::daemon
