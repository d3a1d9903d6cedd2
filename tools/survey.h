// Asking servers what they have, all at once.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/control.h"
#include "tools/remote.h"

namespace bf::tools {

struct Answer {
  transport::Address server;
  Status status{StatusCode::kTimeout, "no answer yet"};
  control::ListReply list;         // if status is ok
  std::shared_ptr<Remote> remote;  // the same, for the next question
};

// True once the answers in hand will do.
using Enough = std::function<bool(const std::vector<Answer>&)>;

// Asks every server of `answers` again, over the connections that are open. Each has `time`; but once `enough` holds,
// those that are still silent get only as long again as a sixth of what the slowest answer took, so that dead ones
// cost nothing. A server that is listed twice, under two names, stays only once. Keeps the order.
// With `sampled`, each takes a sample of its GPUs first, if its last one is old.
void survey(std::vector<Answer>& answers, std::chrono::milliseconds time, const Enough& enough = {}, bool sampled = false);
std::vector<Answer> survey(const std::vector<transport::Address>& servers, std::chrono::milliseconds time,
                           const Enough& enough = {}, bool sampled = false);

}  // namespace bf::tools
