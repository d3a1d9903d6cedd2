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

Status check_limits(const std::map<std::string, Limit>& limits, const std::string& client, const std::string& group,
                    const std::vector<Holding>& held, const Taken& wanted) {
  for (auto& [scope, limit] : limits) {
    auto check = [&, &limit = limit](const std::string& whose, auto counts) {
      std::vector<Taken> taken;
      for (auto& holding : held)
        if (counts(holding)) taken.push_back(holding.taken);
      return check_limit(whose, limit, taken, wanted);
    };
    auto own = [&](const Holding& holding) { return holding.client == client; };
    Status checked;
    if (scope == "pool")
      checked = check("of the pool", [](const Holding&) { return true; });
    else if (scope == "server")
      checked = check("of this server", [](const Holding& holding) { return holding.here; });
    else if (scope == "client" && !limits.contains("client:" + client))
      checked = check("of every client", own);
    else if (scope == "client:" + client)
      checked = check("of the client '" + client + "'", own);
    else if (!group.empty() && scope == "group:" + group)
      checked = check("of the group '" + group + "'", [&](const Holding& holding) { return holding.group == group; });
    if (!checked.ok()) return checked;
  }
  return {};
}

}  // namespace bf::daemon
