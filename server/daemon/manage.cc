// Commands of `bf` that look at and change what the server and its pool keep: words in, JSON out.
#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/hex.h"
#include "server/daemon/backup.h"
#include "server/daemon/daemon.h"
#include "server/daemon/log.h"

namespace bf::daemon {
namespace {

using nlohmann::json;
using Clock = EventLoop::Clock;

constexpr size_t kTokens = 10'000;
constexpr size_t kTokenNameBytes = 64;
constexpr size_t kHistory = 1000;

int64_t seconds(Clock::duration time) { return std::chrono::duration_cast<std::chrono::seconds>(time).count(); }

const char* name_of(Lease::State state) {
  switch (state) {
    case Lease::State::kReserved:
      return "reserved";
    case Lease::State::kActive:
      return "active";
    case Lease::State::kEnding:
      return "ending";
  }
  return "";
}

Status no_such_lease(const std::string& id) { return {StatusCode::kDenied, "there is no lease " + id + " of yours here"}; }

Status unknown_command() {
  return {StatusCode::kInvalid, "the server does not know this command; are versions different?"};
}

Status for_admins() {
  return {StatusCode::kDenied,
          "this is for administrators: use a token made with --admin, or run bf on the server as the user of bfserver"};
}

}  // namespace

void Daemon::manage(Connection& connection, const control::Frame& frame) {
  auto request = control::decode_ManageRequest(control::as_bytes(frame.body));
  if (!request.ok()) return refuse(connection, request.status());
  connection.hold();
  run_command(connection.identity(), request->words, frame.payload, [this, asker = connection.id()](Status done, std::string answer) {
    auto found = connections_.find(asker);
    if (found == connections_.end()) return;
    found->second->release();
    if (answer.size() > limits::kPayloadBytes) done = {StatusCode::kExhausted, "the answer is too long"};
    if (!done.ok()) answer.clear();
    found->second->reply(Opcode::kManage, control::encode_ManageReply({uint32_t(done.code()), done.message()}), std::move(answer));
  });
}

void Daemon::run_command(const Identity& who, const std::vector<std::string>& words, const std::string& payload, Answer answer) {
  const std::string verb = words.empty() ? "" : words[0];
  bool shared = verb == "token" || verb == "limit" || verb == "backup" || verb == "restore" || verb == "cluster";
  if (!shared) {
    std::string text;
    Status done = run_own_command(who, words, &text);
    return answer(done, std::move(text));
  }
  if (!who.admin) return answer(for_admins(), {});
  if (options_.dev && verb != "limit") return answer({StatusCode::kInvalid, "a server with --dev keeps nothing and takes no tokens"}, {});
  if (verb == "cluster") return run_cluster_command(words, payload, std::move(answer));
  if (verb == "restore") return restore(payload, std::move(answer));
  if (verb == "backup")
    return state_->read([answer](Result<Configuration> all) {
      all.ok() ? answer({}, backup_of(*all)) : answer(all.status(), {});
    });
  state_->refresh([this, words, answer = std::move(answer)](Status fresh) {
    std::string text;
    std::optional<Change> change;
    Status done = fresh.ok() ? run_shared_command(words, &text, &change) : fresh;
    if (!done.ok() || !change) return answer(done, std::move(text));
    state_->apply(std::move(*change), [answer, text](Status applied) { answer(applied, text); });
  });
}

Status Daemon::run_shared_command(const std::vector<std::string>& words, std::string* answer, std::optional<Change>* change) {
  return words[0] == "token" ? run_token_command(words, answer, change) : run_limit_command(words, answer, change);
}

void Daemon::restore(const std::string& text, Answer answer) {
  auto all = read_backup(text, "this");
  if (!all.ok()) return answer(all.status(), {});
  if (cluster_ && cluster_->own_etcd && all->ca != configuration_of(*store_, options_.state_dir).ca)
    return answer({StatusCode::kInvalid, "this is a backup of another pool: its authority is not the one that this pool's etcd believes"}, {});
  log::info("the pool's configuration is replaced by a backup's");
  audit_.write("restored", {});
  state_->apply(std::move(*all), [this, answer](Status applied) {
    if (applied.ok()) on_configuration();
    answer(applied, json{{"restored", true}}.dump());
  });
}

Status Daemon::run_own_command(const Identity& who, const std::vector<std::string>& words, std::string* answer) {
  auto is = [&](size_t count, std::initializer_list<const char*> verbs) {
    if (words.size() != count || words.size() < verbs.size()) return false;
    return std::equal(verbs.begin(), verbs.end(), words.begin(), [](const char* a, const std::string& b) { return b == a; });
  };
  auto now = Clock::now();
  if (is(1, {"leases"})) {
    json all = json::array();
    for (auto& [id, lease] : leases_.all()) {
      if (!who.admin && lease.owner.client != who.client) continue;
      json gpus = json::array();
      for (auto& share : lease.shares)
        gpus.push_back({{"index", inventory_.gpus[share.gpu].facts.index}, {"memory_mib", share.bytes >> 20}});
      json entry = {{"id", id},
                    {"state", name_of(lease.state)},
                    {"client", lease.owner.client},
                    {"host", lease.request.client_name},
                    {"program", lease.request.program},
                    {"pid", lease.request.client_pid},
                    {"detached", lease.detached()},
                    {"gpus", gpus},
                    {"sessions", workers_.serving(id)}};
      if (lease.state != Lease::State::kReserved) {
        entry["age_s"] = seconds(now - lease.began);
        entry["idle_s"] = seconds(now - last_used(lease, now));
        if (lease.request.ttl_ms > 0) entry["ttl_left_s"] = int64_t(lease.request.ttl_ms / 1000) - seconds(now - lease.began);
      }
      all.push_back(std::move(entry));
    }
    *answer = json{{"leases", all}}.dump();
    return {};
  }
  if (is(2, {"release"}) || is(2, {"kill"})) {
    bool kill = words[0] == "kill";
    if (kill && !who.admin) return for_admins();
    Lease* lease = leases_.find(words[1]);
    if (lease == nullptr || lease->state == Lease::State::kReserved || (!who.admin && lease->owner.client != who.client))
      return no_such_lease(words[1]);
    if (kill) log::info("lease {}: killed by {}", lease->id, who.client.empty() ? "an administrator" : who.client);
    end_lease(*lease, kill ? "an administrator ended it" : "it was released");
    *answer = json{{"released", words[1]}}.dump();
    return {};
  }
  if (is(2, {"drain"}) || is(1, {"undrain"}))
    if (!who.admin) return for_admins();
  if (is(2, {"drain"})) {
    drain(uint32_t(std::clamp(atoll(words[1].c_str()), 0ll, 31'536'000ll)));
    *answer = json{{"draining", true}, {"leases", leases_.all().size()}}.dump();
    return {};
  }
  if (is(1, {"undrain"})) {
    if (stopping_) return {StatusCode::kUnavailable, "the server is being stopped"};
    draining_ = false;
    loop_.cancel(drain_timer_);
    log::info("offering GPUs again");
    *answer = json{{"draining", false}}.dump();
    return {};
  }
  if (is(1, {"history"})) {
    auto past = store_->history(kHistory);
    if (!past.ok()) return past.status();
    json all = json::array();
    for (auto& lease : *past)
      if (who.admin || lease.client == who.client)
        all.push_back({{"id", lease.id}, {"client", lease.client}, {"host", lease.host}, {"program", lease.program},
                       {"began", lease.began}, {"ended", lease.ended}, {"gpus", lease.gpus},
                       {"memory_mib", lease.memory_mib}, {"end", lease.end_reason}});
    *answer = json{{"leases", all}}.dump();
    return {};
  }
  return unknown_command();
}

// limit list | set SCOPE GPUS MIB LEASES | remove SCOPE. Negative: no limit.
Status Daemon::run_limit_command(const std::vector<std::string>& words, std::string* answer, std::optional<Change>* change) {
  const std::string verb = words.size() > 1 ? words[1] : "";
  if (verb == "list" && words.size() == 2) {
    json all = json::array();
    for (auto& [scope, limit] : store_->limits())
      all.push_back({{"scope", scope}, {"gpus", limit.gpus}, {"memory_mib", limit.memory_mib}, {"leases", limit.leases}});
    *answer = json{{"limits", all}}.dump();
    return {};
  }
  if (words.size() < 3) return unknown_command();
  const std::string& scope = words[2];
  bool named = (scope.starts_with("client:") && scope.size() > 7) || (scope.starts_with("group:") && scope.size() > 6);
  if (scope != "pool" && scope != "server" && scope != "client" && !named)
    return {StatusCode::kInvalid, "limits are of: pool (all servers together), server (each by itself), client (each by itself), client:NAME, group:NAME"};
  *answer = json{{"limit", scope}}.dump();
  if (verb == "set" && words.size() == 6) {
    log::info("limit of {}: {} GPUs, {} MiB, {} leases", scope, words[3], words[4], words[5]);
    *change = PutLimit{scope, {atof(words[3].c_str()), atoll(words[4].c_str()), atoll(words[5].c_str())}};
    return {};
  }
  if (verb == "remove" && words.size() == 3) return *change = RemoveLimit{scope}, ok_status();
  return unknown_command();
}

// token pin | list | add NAME ID HASH EXPIRES ADMIN GROUP | rotate NAME ID HASH | disable NAME | enable NAME | remove NAME.
// The secret is made by whoever asks and never gets here: HASH is hexadecimal SHA-256.
Status Daemon::run_token_command(const std::vector<std::string>& words, std::string* answer, std::optional<Change>* change) {
  auto verb = words.size() > 1 ? words[1] : "";
  if (verb == "pin" && words.size() == 2) return *answer = json{{"pin", to_hex(credentials_.pin)}}.dump(), ok_status();
  if (verb == "list" && words.size() == 2) {
    json all = json::array();
    for (auto& [id, token] : store_->tokens())
      all.push_back({{"name", token.name}, {"group", token.group}, {"admin", token.admin}, {"disabled", token.disabled},
                     {"created", token.created}, {"expires", token.expires}, {"id", id}});
    *answer = json{{"tokens", all}}.dump();
    return {};
  }
  if (words.size() < 3) return unknown_command();
  const std::string& name = words[2];
  const Token* known = store_->token_named(name);
  *answer = json{{"token", name}}.dump();
  if (verb == "add" && words.size() == 8) {
    if (known != nullptr) return {StatusCode::kInvalid, "there is a token '" + name + "' already; rotate or remove it"};
    if (store_->tokens().size() >= kTokens) return {StatusCode::kExhausted, "there are too many tokens"};
    Token token{.id = words[3], .name = name, .group = words[7], .hash = from_hex(words[4]).value_or("")};
    token.created = ::time(nullptr);
    token.expires = atoll(words[5].c_str());
    token.admin = words[6] == "1";
    if (name.empty() || name.size() > kTokenNameBytes)
      return {StatusCode::kInvalid, fmt::format("a token's name has 1 to {} bytes, and this one has {}", kTokenNameBytes, name.size())};
    if (token.id.size() != 16 || token.hash.size() != 32 || store_->token(token.id) != nullptr)
      return {StatusCode::kInvalid, "this is not a token"};
    log::info("token '{}' made", name);
    audit_.write("token-made", {{"token", name}});
    *change = std::move(token);
    return {};
  }
  if (known == nullptr) return {StatusCode::kInvalid, "there is no token '" + name + "'"};
  Token token = *known;
  if (verb == "rotate" && words.size() == 5) {
    token.id = words[3];
    token.hash = from_hex(words[4]).value_or("");
    if (token.id.size() != 16 || token.hash.size() != 32) return {StatusCode::kInvalid, "this is not a token"};
  } else if (verb == "disable" && words.size() == 3) {
    token.disabled = true;
  } else if (verb == "enable" && words.size() == 3) {
    token.disabled = false;
  } else if (verb == "remove" && words.size() == 3) {
    log::info("token '{}' removed", name);
    *change = RemoveToken{name};
    return {};
  } else {
    return unknown_command();
  }
  log::info("token '{}': {}", name, verb);
  audit_.write("token-changed", {{"token", name}, {"how", verb}});
  *change = std::move(token);
  return {};
}

}  // namespace bf::daemon
