// The books of a managed pool, in etcd. Every function blocks (etcd.h); an object belongs to one thread.
//
//   backfield/changes                    what is agreed on: names the generation; touched by every change of it
//   backfield/config/GENERATION/...      authority, tokens/ID, limits/SCOPE
//   backfield/servers/SERVER             who is there                            } vanish with the
//   backfield/leases/SERVER/LEASE        what is held, and by whom               } server's etcd lease
//   backfield/accounts/SCOPE             touched whenever somebody of that scope takes a lease
//
// Limits hold without races because a claim is written on condition that neither what is agreed on nor an account that a
// limit watches has changed since the sum was made. A restored configuration is written as a new generation, and then
// named: nobody ever sees half of one.
//
// A server that etcd has not heard of for kServerTime loses its claims, so that nobody waits for the dead. If it lives (cut
// off, or etcd had no majority) it enters them again as they are: running programs go on whatever the limits say by then.
#pragma once

#include <chrono>
#include <map>
#include <memory>

#include "server/daemon/etcd.h"
#include "server/daemon/shared_state.h"

namespace bf::daemon {

class PoolBooks {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr auto kServerTime = std::chrono::seconds(15);
  static constexpr auto kSignOfLife = std::chrono::seconds(3);
  static constexpr int kAttempts = 40;  // of a transaction that others get in the way of

  // `facts` are told to people: name, addresses, version.
  PoolBooks(std::unique_ptr<Etcd> etcd, std::string server_id, nlohmann::json facts)
      : etcd_(std::move(etcd)), server_id_(std::move(server_id)), facts_(std::move(facts)) {}

  // Makes the pool. kInvalid if this etcd holds one already.
  Status create(const Configuration& configuration);
  // What is held here already, before any claim.
  void hold(const Claim& claim) { claims_[claim.lease_id] = claim; }
  // To be called about once a second: says that this server lives, and puts right what could not be written in time.
  Status keep();
  // Whether a majority answered when it was asked last.
  bool reachable() const { return reachable_; }

  Status claim(const Claim& claim);
  void release(const std::string& lease_id);
  // Reads what is agreed on, if it changed.
  Status refresh();
  // On condition that it is still as in revision().
  Status apply(const Change& change);
  const Configuration& configuration() const { return configuration_; }
  int64_t revision() const { return revision_; }  // of its last change; 0: never read
  // The servers that are there, and what they hold.
  Result<nlohmann::json> servers();
  // Takes this server's name and claims out.
  void leave();

  Etcd& etcd() { return *etcd_; }

 private:
  Status enter();
  Status put_right();
  Result<bool> try_claim(const Claim& claim);
  Status write_generation(const std::string& generation, const Configuration& configuration);
  std::string config(const std::string& key) const { return "backfield/config/" + generation_ + "/" + key; }
  std::string lease_key(const std::string& lease_id) const { return "backfield/leases/" + server_id_ + "/" + lease_id; }
  Result<Etcd::Outcome> commit(const Etcd::Transaction& transaction);

  std::unique_ptr<Etcd> etcd_;
  const std::string server_id_;
  const nlohmann::json facts_;
  int64_t etcd_lease_ = 0;
  Clock::time_point last_sign_{};
  bool reachable_ = false;
  bool doubtful_ = false;  // something may not have been written, or may have been
  std::map<std::string, Claim> claims_;  // what etcd should hold of ours, by lease
  std::string generation_;
  int64_t revision_ = 0;
  Configuration configuration_;
  std::map<std::string, Limit> limits_;  // less those of servers, which each keeps by itself
};

}  // namespace bf::daemon
