// Taking a lease from one of several servers.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/control.h"
#include "tools/filter.h"
#include "tools/survey.h"

namespace bf::tools {

enum class Policy {
  kAuto,    // shares where they fit most tightly, whole GPUs from the emptiest server
  kPack,    // the tightest fit, so that large pieces stay free
  kSpread,  // the emptiest server and GPU, so that neighbours are few
};

struct Wish {
  control::LeaseRequest request;
  std::vector<Filter> filters{};
  Policy policy = Policy::kAuto;
  std::optional<control::Deadline> deadline{};  // of waiting; none: for ever
};

struct Borrowed {
  std::string server_name;
  std::shared_ptr<Remote> remote;  // the lease ends when it closes, unless it is detached
  control::LeaseReply lease;
};

// What a person is told meanwhile.
struct Listener {
  std::function<void(const std::string&)> waiting;  // before every pause: why
  std::function<void(const std::string&)> warning;  // once for each server that cannot be used
};

// The order in which servers should be asked: those that look able to grant first, by the policy. Positions into
// `answers`; unreachable servers, and those without a GPU that the filters allow, are left out.
std::vector<size_t> rank(const std::vector<Answer>& answers, const Wish& wish);

// Asks, reserves, commits; while everybody is busy waits with jittered, growing pauses. kImpossible at once when no
// server that answers could ever grant it; kUnavailable at once when none answers; kExhausted at the deadline.
Result<Borrowed> borrow(const std::vector<transport::Address>& servers, const Wish& wish, const Listener& listener);

}  // namespace bf::tools
