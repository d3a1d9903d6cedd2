// Who holds which share of which GPU.
//
// A lease is first reserved: its memory is promised, to be committed within kReservationTime by the connection that
// asked. Once active it lives as long as that connection; a detached one lives on its own until its time is over or
// nobody has used it for a while. An ending lease keeps its memory promised until the last of its workers has been
// reaped, because only then is it free on the GPU.
#pragma once

#include <bitset>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/limits.h"
#include "proto/control.h"
#include "server/daemon/identity.h"
#include "server/daemon/placement.h"
#include "server/ledger.h"

namespace bf::daemon {

inline constexpr size_t kLeases = 1024;  // each costs two descriptors; a pool that shares finer wants more servers
inline constexpr auto kReservationTime = std::chrono::seconds(5);

struct Lease {
  using Clock = std::chrono::steady_clock;
  enum class State { kReserved, kActive, kEnding };

  std::string id;
  std::string secret;
  Identity owner;
  State state = State::kReserved;
  uint64_t connection = 0;       // that asked; 0 once it is detached
  std::set<uint64_t> holders{};  // connections that use a detached lease
  std::set<uint64_t> settling{}; // of these connections, those that wait for the last session to end
  Clock::time_point reserved{};
  Clock::time_point began{};      // when it was committed
  Clock::time_point last_used{};  // by a holder or a session; of those still there, see the caller
  time_t began_unix = 0;
  std::string end_reason{};
  std::vector<Share> shares{};
  server::Ledger ledger;
  std::bitset<limits::kSessionsPerLease> slots{};  // in use
  control::LeaseRequest request;                   // who asked, for people

  bool detached() const { return request.detached; }
};

class LeaseTable {
 public:
  explicit LeaseTable(std::vector<GpuState>& gpus) : gpus_(gpus) {}

  // place() among `visible` (the GPUs, or less of them), and the books. The pointer is good until release().
  Result<Lease*> reserve(const control::LeaseRequest& request, const Identity& owner, uint64_t connection,
                         std::span<const GpuState> visible);
  // The connection's own reservation becomes a lease; kDenied if it is not its own, or over.
  Result<Lease*> commit(const std::string& id, uint64_t connection);
  Lease* find(const std::string& id);
  // The lease that this connection asked for or holds.
  Lease* find_by_connection(uint64_t connection);
  // The lease, if the proof (proto/secrets.h) is right for this AttachRequest body and nonce; kDenied otherwise.
  Result<Lease*> check(const std::string& id, std::string_view attach_body, std::string_view nonce,
                       std::string_view proof);
  // The lease, if the proof for readings is right.
  Result<Lease*> check_reading(const std::string& id, std::string_view proof);
  // A free ledger slot, now in use; kExhausted when limits::kSessionsPerLease processes run.
  Result<uint32_t> take_slot(Lease& lease);
  void free_slot(Lease& lease, uint32_t slot);
  // Gives the memory back and forgets the lease.
  void release(Lease& lease);

  std::map<std::string, Lease>& all() { return leases_; }
  const std::map<std::string, Lease>& all() const { return leases_; }
  control::LeaseReply describe(const Lease& lease) const;

 private:
  std::vector<GpuState>& gpus_;
  std::map<std::string, Lease> leases_;
};

}  // namespace bf::daemon
