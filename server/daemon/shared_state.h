// What the servers of a pool agree on: the configuration, and what is held anywhere in it. A standalone server is a pool
// of its own and agrees with itself (LocalState); a managed pool agrees in etcd (ManagedState).
//
// Tokens and limits are read where they always were, in the Store; here they are changed. Every function returns at once
// and calls `done` later or before it returns, on the event loop's thread.
#pragma once

#include <functional>
#include <string>
#include <variant>

#include "base/status.h"
#include "server/daemon/configuration.h"
#include "server/daemon/quota.h"

namespace bf::daemon {

// A lease, as the limits see it.
struct Claim {
  std::string lease_id, client, group;
  Taken taken;
};

struct RemoveToken {
  std::string name;
};
struct PutLimit {
  std::string scope;
  Limit limit;
};
struct RemoveLimit {
  std::string scope;
};
// A Token replaces the one of the same name; a Configuration, everything.
using Change = std::variant<Token, RemoveToken, PutLimit, RemoveLimit, Configuration>;

class SharedState {
 public:
  using Done = std::function<void(Status)>;

  virtual ~SharedState() = default;

  // A lease may be granted once its claim is done: everybody's limits allow it, whoever else asks at the same time.
  // kExhausted: not now, a limit or the pool's own state forbids it; kImpossible: never.
  virtual void claim(Claim claim, Done done) = 0;
  // The lease is over, or was never granted. Without effect where there is no such claim.
  virtual void release(const std::string& lease_id) = 0;
  // The Store has what the pool agrees on now.
  virtual void refresh(Done done) = 0;
  // Changes it everywhere, from what the Store has; kExhausted if somebody else changed it meanwhile.
  virtual void apply(Change change, Done done) = 0;
  // Of one moment.
  virtual void read(std::function<void(Result<Configuration>)> done) = 0;
};

class LocalState final : public SharedState {
 public:
  LocalState(Store& store, std::string state_dir) : store_(store), state_dir_(std::move(state_dir)) {}
  void claim(Claim, Done done) override { done({}); }  // the limits of one server are its lease table's
  void release(const std::string&) override {}
  void refresh(Done done) override { done({}); }
  void apply(Change change, Done done) override;
  void read(std::function<void(Result<Configuration>)> done) override { done(configuration_of(store_, state_dir_)); }

 private:
  Store& store_;
  const std::string state_dir_;
};

}  // namespace bf::daemon
