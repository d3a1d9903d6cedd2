#include "server/daemon/quota.h"

#include <numeric>

#include "base/log.h"

namespace bf::daemon {
namespace {

constexpr double kRounding = 1e-6;  // fractions that add up to the limit keep it

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// 2.5, 0.75, 1: as people write them.
std::string number(double value) {
  std::string text = fmt::format("{:.3f}", value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

std::string terms(const std::vector<double>& values) {
  std::string text;
  for (double value : values) text += (text.empty() ? "" : " + ") + number(value);
  return text;
}

}  // namespace

Status check_limit(const std::string& whose, const Limit& limit, const std::vector<Taken>& held, const Taken& wanted) {
  std::vector<double> gpus;
  int64_t memory_mib = 0;
  for (auto& lease : held) {
    gpus.insert(gpus.end(), lease.gpus.begin(), lease.gpus.end());
    memory_mib += lease.memory_mib;
  }
  double wants = sum(wanted.gpus), has = sum(gpus);
  if (limit.gpus >= 0 && wants > limit.gpus + kRounding)
    return {StatusCode::kImpossible, fmt::format("the limit {} is {} GPUs, and this request alone is {}", whose,
                                                 number(limit.gpus), terms(wanted.gpus))};
  if (limit.gpus >= 0 && has + wants > limit.gpus + kRounding)
    return {StatusCode::kExhausted,
            fmt::format("the limit {} is {} GPUs: {} = {} are taken, and {} more would make {}", whose,
                        number(limit.gpus), terms(gpus), number(has), terms(wanted.gpus), number(has + wants))};
  if (limit.memory_mib >= 0 && wanted.memory_mib > limit.memory_mib)
    return {StatusCode::kImpossible, fmt::format("the limit {} is {} MiB, and this request alone is {} MiB", whose,
                                                 limit.memory_mib, wanted.memory_mib)};
  if (limit.memory_mib >= 0 && memory_mib + wanted.memory_mib > limit.memory_mib)
    return {StatusCode::kExhausted,
            fmt::format("the limit {} is {} MiB: {} MiB are taken, and {} MiB more would make {}", whose,
                        limit.memory_mib, memory_mib, wanted.memory_mib, memory_mib + wanted.memory_mib)};
  if (limit.leases == 0) return {StatusCode::kImpossible, fmt::format("the limit {} is no lease at all", whose)};
  if (limit.leases >= 0 && int64_t(held.size()) >= limit.leases)
    return {StatusCode::kExhausted, fmt::format("the limit {} is {} leases at a time", whose, limit.leases)};
  return {};
}

}  // namespace bf::daemon
