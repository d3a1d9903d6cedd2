// Limits: how much a client, a group, or everybody together may hold at a time, on a server or in the whole pool. Pure
// arithmetic.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "server/daemon/store.h"

namespace bf::daemon {

// What a lease takes of the limits.
struct Taken {
  std::vector<double> gpus;  // the fraction of each
  int64_t memory_mib = 0;
};

// What somebody holds already.
struct Holding {
  std::string client, group;
  bool here = true;  // on this server
  Taken taken{};
};

// kExhausted if what is held and `wanted` together pass the limit, with the sum in the message; kImpossible if `wanted`
// alone does. `whose` is for the message: "of the client 'alice'".
Status check_limit(const std::string& whose, const Limit& limit, const std::vector<Taken>& held, const Taken& wanted);

// All limits that concern a request of this client.
Status check_limits(const std::map<std::string, Limit>& limits, const std::string& client, const std::string& group,
                    const std::vector<Holding>& held, const Taken& wanted);

}  // namespace bf::daemon
