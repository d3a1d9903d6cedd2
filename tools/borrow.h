// Taking a lease from one of several servers.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "proto/control.h"
#include "tools/servers.h"

namespace bf::tools {

struct Borrowed {
  transport::Address server;
  std::string server_name;
  Fd connection;  // the lease ends when it closes
  control::LeaseReply lease;
};

// The order in which servers should be asked: those that look able to grant first; among them the tightest fit for
// shares of a GPU, the emptiest server for whole GPUs. Positions into `answers`; unreachable servers are left out.
std::vector<size_t> rank(const std::vector<Answer>& answers, const control::LeaseRequest& request);

// Asks, takes, and while everybody is busy waits with jittered, growing pauses until `deadline`. `waiting` is told why
// before every pause. kImpossible at once when no server that answers could ever grant it; kUnavailable at once when
// none answers; kExhausted at the deadline.
Result<Borrowed> borrow(const std::vector<transport::Address>& servers, const control::LeaseRequest& request,
                        control::Deadline deadline, const std::function<void(const std::string&)>& waiting);

}  // namespace bf::tools
