// What an RDMA link needs from a host, looked at one thing at a time: for `bf localhealth`, `bf netperf` and the choice
// of a transport. Connects to nobody.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace bf::transport {

enum class RdmaGrade { kPass, kMarginal, kFail };

struct RdmaCheck {
  std::string name;
  RdmaGrade grade = RdmaGrade::kPass;
  std::string note;  // what was found and, unless it passed, what to do
};

// Libraries, devices and ports, addresses, MTU, lockable memory. Only the first if the libraries are missing.
std::vector<RdmaCheck> check_rdma();

// Bytes that one link pins on each side, without what the program itself pinned.
uint64_t rdma_link_bytes();

namespace rdma {
// Ok if there is a device with an active port and a connection manager.
Status usable_device();
}  // namespace rdma

}  // namespace bf::transport
