// Who is at the other end of a connection.
#pragma once

#include <string>

namespace bf::daemon {

struct Identity {
  bool known = false;    // false: may only authenticate, or prove a lease
  bool admin = false;    // may see and end what belongs to others, and manage the pool
  std::string client{};  // name of the token; empty where there are none (--dev)
  std::string group{};   // of the token, for limits
  std::string token_id{};
};

}  // namespace bf::daemon
