#include "server/daemon/pool_books.h"

#include <algorithm>
#include <random>
#include <thread>

#include "base/random.h"

namespace bf::daemon {
namespace {

using nlohmann::json;

constexpr const char* kChanges = "backfield/changes";
constexpr const char* kConfig = "backfield/config/";
constexpr const char* kServerKeys = "backfield/servers/";
constexpr const char* kLeaseKeys = "backfield/leases/";

std::string account(const std::string& scope) { return "backfield/accounts/" + scope; }

json parse(const std::string& text) {
  json object = json::parse(text, nullptr, false);
  return object.is_object() ? object : json::object();
}

// Whoever may write to etcd may have written anything.
template <typename T>
T field(const json& object, const char* key, T missing) {
  try {
    return object.value(key, missing);
  } catch (const json::exception&) {
    return missing;
  }
}

std::string value_of(const Claim& claim) {
  return json{{"client", claim.client}, {"group", claim.group}, {"gpus", claim.taken.gpus}, {"memory_mib", claim.taken.memory_mib}}.dump();
}

Holding holding_of(const Etcd::Entry& entry) {
  json object = parse(entry.value);
  Holding holding{.client = field<std::string>(object, "client", ""), .group = field<std::string>(object, "group", "")};
  holding.taken.gpus = field(object, "gpus", std::vector<double>());
  holding.taken.memory_mib = field(object, "memory_mib", int64_t{0});
  return holding;
}

// Those who lost a race try again at different times.
void pause(int attempt) {
  thread_local std::minstd_rand random{std::random_device{}()};
  std::this_thread::sleep_for(std::chrono::microseconds(std::uniform_int_distribution<int>(200, 1000 * std::min(attempt + 1, 8))(random)));
}

Status no_pool() { return {StatusCode::kInvalid, "this etcd holds no pool; was it emptied? 'bf cluster init' makes one"}; }

}  // namespace

Result<Etcd::Outcome> PoolBooks::commit(const Etcd::Transaction& transaction) {
  auto outcome = etcd_->commit(transaction);
  reachable_ = outcome.ok() || outcome.status().code() != StatusCode::kUnavailable;
  return outcome;
}

// --- what is agreed on -----------------------------------------------------------------------------------------------

Status PoolBooks::write_generation(const std::string& generation, const Configuration& configuration) {
  const std::string folder = kConfig + generation + "/";
  Etcd::Transaction some;
  auto flush = [&]() -> Status { return some.size() == 0 ? ok_status() : commit(std::exchange(some, {})).status(); };
  auto put = [&](const std::string& key, const json& value) -> Status {
    some.put(folder + key, value.dump());
    return some.size() >= Etcd::kOperations ? flush() : ok_status();
  };
  BF_RETURN_IF_ERROR(put("authority", {{"ca", configuration.ca}, {"ca_key", configuration.ca_key}}));
  for (auto& token : configuration.tokens) BF_RETURN_IF_ERROR(put("tokens/" + token.id, to_json(token)));
  for (auto& [scope, limit] : configuration.limits) BF_RETURN_IF_ERROR(put("limits/" + scope, to_json(limit)));
  return flush();
}

Status PoolBooks::create(const Configuration& configuration) {
  auto there = commit(Etcd::Transaction().read(kChanges));
  if (!there.ok()) return there.status();
  const Status taken{StatusCode::kInvalid, "this etcd holds a pool already; take part in it: bf cluster join SERVER"};
  if (!there->reads[0].empty()) return taken;
  const std::string generation = random_id();
  BF_RETURN_IF_ERROR(write_generation(generation, configuration));
  auto named = commit(Etcd::Transaction().if_revision(kChanges, 0).put(kChanges, json{{"generation", generation}}.dump()));
  if (!named.ok()) return named.status();
  return named->done ? refresh() : taken;
}

Status PoolBooks::refresh() {
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    auto seen = commit(Etcd::Transaction().read(kChanges));
    if (!seen.ok()) return seen.status();
    if (seen->reads[0].empty()) return no_pool();
    const Etcd::Entry& changes = seen->reads[0][0];
    if (changes.revision == revision_) return {};
    generation_ = field<std::string>(parse(changes.value), "generation", "");
    const std::string folder = config("");
    auto all = commit(Etcd::Transaction().if_revision(kChanges, changes.revision).read_prefix(folder));
    if (!all.ok()) return all.status();
    if (!all->done) continue;  // changed again
    Configuration fresh;
    std::map<std::string, Limit> limits;
    for (auto& entry : all->reads[0]) {
      const std::string key = entry.key.substr(folder.size());
      json object = parse(entry.value);
      if (key == "authority") {
        fresh.ca = field<std::string>(object, "ca", "");
        fresh.ca_key = field<std::string>(object, "ca_key", "");
      } else if (key.starts_with("tokens/")) {
        if (auto token = token_of(object)) fresh.tokens.push_back(std::move(*token));
      } else if (key.starts_with("limits/")) {
        const std::string scope = key.substr(7);
        auto limit = limit_of(object);
        if (!limit) continue;
        fresh.limits.emplace_back(scope, *limit);
        if (scope != "server") limits[scope] = *limit;
      }
    }
    configuration_ = std::move(fresh);
    limits_ = std::move(limits);
    revision_ = changes.revision;
    return {};
  }
  return {StatusCode::kExhausted, "the pool's configuration changes faster than it can be read"};
}

Status PoolBooks::apply(const Change& change) {
  Etcd::Transaction transaction;
  transaction.if_revision(kChanges, revision_);
  auto forget_token = [&](const std::string& name) {
    for (auto& token : configuration_.tokens)
      if (token.name == name) transaction.remove(config("tokens/" + token.id));
  };
  std::string generation = generation_;
  if (auto* token = std::get_if<Token>(&change)) {
    bool same = false;
    for (auto& known : configuration_.tokens) same |= known.name == token->name && known.id == token->id;
    if (!same) forget_token(token->name);
    transaction.put(config("tokens/" + token->id), to_json(*token).dump());
  } else if (auto* gone = std::get_if<RemoveToken>(&change)) {
    forget_token(gone->name);
  } else if (auto* put = std::get_if<PutLimit>(&change)) {
    transaction.put(config("limits/" + put->scope), to_json(put->limit).dump());
  } else if (auto* lifted = std::get_if<RemoveLimit>(&change)) {
    transaction.remove(config("limits/" + lifted->scope));
  } else {
    generation = random_id();
    BF_RETURN_IF_ERROR(write_generation(generation, std::get<Configuration>(change)));
    transaction.remove_prefix(config(""));
  }
  transaction.put(kChanges, json{{"generation", generation}}.dump());
  auto outcome = commit(transaction);
  if (!outcome.ok()) return outcome.status();
  if (!outcome->done) {
    if (generation != generation_) (void)commit(Etcd::Transaction().remove_prefix(kConfig + generation + "/"));
    return {StatusCode::kExhausted, "the pool's configuration was changed elsewhere at this moment; look again, and repeat it"};
  }
  return refresh();
}

// --- what is held ----------------------------------------------------------------------------------------------------

Status PoolBooks::claim(const Claim& claim) {
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    if (attempt > 0) pause(attempt);
    if (attempt > 0 || revision_ == 0) BF_RETURN_IF_ERROR(refresh());
    if (etcd_lease_ == 0) BF_RETURN_IF_ERROR(enter());
    auto written = try_claim(claim);
    if (!written.ok() && written.status().code() == StatusCode::kUnavailable) doubtful_ = true;
    if (!written.ok() && written.status().code() != StatusCode::kDenied) return written.status();
    if (!written.ok()) {  // our lease of etcd's has ended
      etcd_lease_ = 0;
    } else if (*written) {
      claims_[claim.lease_id] = claim;
      return {};
    }
  }
  return {StatusCode::kExhausted, "many servers grant something of the same limit at this moment"};
}

// False: somebody was faster, and the sum has to be made again.
Result<bool> PoolBooks::try_claim(const Claim& claim) {
  const std::string client = "client:" + claim.client, group = "group:" + claim.group;
  std::vector<std::string> watched;
  if (limits_.contains("pool")) watched.push_back("pool");
  if (limits_.contains("client") || limits_.contains(client)) watched.push_back(client);
  if (!claim.group.empty() && limits_.contains(group)) watched.push_back(group);
  Etcd::Transaction put;
  if (!watched.empty()) {
    Etcd::Transaction look;
    for (auto& scope : watched) look.read(account(scope));
    auto seen = commit(look.read_prefix(kLeaseKeys));
    if (!seen.ok()) return seen.status();
    std::vector<Holding> held;
    for (auto& entry : seen->reads.back())
      if (entry.key != lease_key(claim.lease_id)) held.push_back(holding_of(entry));
    BF_RETURN_IF_ERROR(check_limits(limits_, claim.client, claim.group, held, claim.taken));
    for (size_t i = 0; i < watched.size(); i++)
      put.if_revision(account(watched[i]), seen->reads[i].empty() ? 0 : seen->reads[i][0].revision);
  }
  put.if_revision(kChanges, revision_).put(lease_key(claim.lease_id), value_of(claim), etcd_lease_);
  put.put(account("pool"), server_id_).put(account(client), server_id_);
  if (!claim.group.empty()) put.put(account(group), server_id_);
  auto outcome = commit(put);
  if (!outcome.ok()) return outcome.status();
  return outcome->done;
}

void PoolBooks::release(const std::string& lease_id) {
  claims_.erase(lease_id);
  if (!commit(Etcd::Transaction().remove(lease_key(lease_id))).ok()) doubtful_ = true;
}

// --- being there -----------------------------------------------------------------------------------------------------

Status PoolBooks::enter() {
  const std::string name = kServerKeys + server_id_;
  auto before = commit(Etcd::Transaction().read(name));
  if (!before.ok()) return before.status();
  // What an earlier life of this server held is over.
  if (!before->reads[0].empty() && before->reads[0][0].lease != 0) (void)etcd_->revoke(before->reads[0][0].lease);
  auto granted = etcd_->grant(kServerTime);
  if (!granted.ok()) return granted.status();
  auto entered = commit(Etcd::Transaction().put(name, facts_.dump(), *granted));
  if (!entered.ok()) return entered.status();
  etcd_lease_ = *granted;
  last_sign_ = Clock::now();
  doubtful_ = true;
  return put_right();
}

// Makes etcd's copy of our claims what it should be.
Status PoolBooks::put_right() {
  auto there = commit(Etcd::Transaction().read_prefix(lease_key("")));
  if (!there.ok()) return there.status();
  std::map<std::string, Claim> missing = claims_;
  Etcd::Transaction some;
  auto flush = [&]() -> Status { return some.size() == 0 ? ok_status() : commit(std::exchange(some, {})).status(); };
  for (auto& entry : there->reads[0]) {
    const std::string id = entry.key.substr(lease_key("").size());
    if (entry.lease == etcd_lease_ && missing.erase(id) > 0) continue;
    if (!claims_.contains(id)) some.remove(entry.key);
    if (some.size() >= Etcd::kOperations) BF_RETURN_IF_ERROR(flush());
  }
  for (auto& [id, claim] : missing) {
    // One key may be written only once in a transaction, and claims share their accounts.
    BF_RETURN_IF_ERROR(flush());
    some.put(lease_key(id), value_of(claim), etcd_lease_).put(account("pool"), server_id_).put(account("client:" + claim.client), server_id_);
    if (!claim.group.empty()) some.put(account("group:" + claim.group), server_id_);
  }
  BF_RETURN_IF_ERROR(flush());
  doubtful_ = false;
  return {};
}

Status PoolBooks::keep() {
  if (etcd_lease_ != 0 && (!reachable_ || Clock::now() - last_sign_ >= kSignOfLife)) {
    Status alive = etcd_->keep_alive(etcd_lease_);
    reachable_ = alive.code() != StatusCode::kUnavailable;
    if (alive.code() == StatusCode::kDenied) etcd_lease_ = 0;
    if (alive.ok()) last_sign_ = Clock::now();
    if (!alive.ok() && alive.code() != StatusCode::kDenied) return alive;
  }
  if (etcd_lease_ == 0) BF_RETURN_IF_ERROR(enter());
  if (doubtful_) BF_RETURN_IF_ERROR(put_right());
  return refresh();
}

Result<json> PoolBooks::servers() {
  auto seen = commit(Etcd::Transaction().read_prefix(kServerKeys).read_prefix(kLeaseKeys));
  if (!seen.ok()) return seen.status();
  json all = json::array();
  for (auto& entry : seen->reads[0]) {
    json server = parse(entry.value);
    const std::string id = entry.key.substr(std::string(kServerKeys).size());
    const std::string leases = kLeaseKeys + id + "/";
    server["id"] = id;
    server["leases"] = std::count_if(seen->reads[1].begin(), seen->reads[1].end(), [&](auto& lease) { return lease.key.starts_with(leases); });
    all.push_back(std::move(server));
  }
  return all;
}

void PoolBooks::leave() {
  if (etcd_lease_ != 0) (void)etcd_->revoke(std::exchange(etcd_lease_, 0));
}

}  // namespace bf::daemon
