// Who holds which share of which GPU. A lease lives as long as the connection that asked for it, and its memory stays
// promised until the last of its workers has been reaped.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/limits.h"
#include "proto/control.h"
#include "server/daemon/placement.h"
#include "server/ledger.h"

namespace bf::daemon {

inline constexpr size_t kLeases = 1024;  // each costs two descriptors; a pool that shares finer wants more servers

struct Lease {
  std::string id;
  std::string secret;
  uint64_t connection = 0;
  bool ending = false;
  std::vector<Share> shares{};
  server::Ledger ledger;
  std::bitset<limits::kSessionsPerLease> slots{};  // in use
  control::LeaseRequest request;                   // who asked, for people

  std::vector<size_t> gpus() const;
};

class LeaseTable {
 public:
  explicit LeaseTable(std::vector<GpuState>& gpus) : gpus_(gpus) {}

  // place(), and the books. The pointer is good until release().
  Result<Lease*> grant(const control::LeaseRequest& request, uint64_t connection);
  Lease* find(const std::string& id);
  Lease* find_by_connection(uint64_t connection);
  // The lease if the secret is right and it is not ending; kDenied otherwise.
  Result<Lease*> check(const std::string& id, const std::string& secret);
  // A free ledger slot, now in use; kExhausted when limits::kSessionsPerLease processes run.
  Result<uint32_t> take_slot(Lease& lease);
  void free_slot(Lease& lease, uint32_t slot);
  // Gives the memory back and forgets the lease.
  void release(Lease& lease);

  const std::map<std::string, Lease>& all() const { return leases_; }
  control::LeaseReply describe(const Lease& lease) const;

 private:
  std::vector<GpuState>& gpus_;
  std::map<std::string, Lease> leases_;
};

}  // namespace bf::daemon
