// Commands of `bf` that look at and change what the server keeps: words in, JSON out.
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

void Daemon::manage(Connection& connection, const std::string& body) {
  auto request = control::decode_ManageRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  std::string answer;
  Status done = run_command(connection.identity(), request->words, &answer);
  if (answer.size() > limits::kPayloadBytes) done = {StatusCode::kExhausted, "the answer is too long"}, answer.clear();
  connection.reply(Opcode::kManage, control::encode_ManageReply({uint32_t(done.code()), done.message()}),
                   std::move(answer));
}

Status Daemon::run_command(const Identity& who, const std::vector<std::string>& words, std::string* answer) {
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
  if (is(2, {"drain"}) || is(1, {"undrain"}) || is(1, {"backup"}))
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
  if (is(1, {"backup"})) {
    if (options_.dev) return {StatusCode::kInvalid, "a server with --dev has nothing to keep"};
    auto text = backup(*store_, options_.state_dir);
    if (!text.ok()) return text.status();
    *answer = std::move(*text);
    return {};
  }
  if (!words.empty() && words[0] == "token") return who.admin ? run_token_command(words, answer) : for_admins();
  if (!words.empty() && words[0] == "limit") return who.admin ? run_limit_command(words, answer) : for_admins();
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
Status Daemon::run_limit_command(const std::vector<std::string>& words, std::string* answer) {
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
  if (scope != "server" && scope != "client" && !named)
    return {StatusCode::kInvalid, "limits are of: server, client (each by itself), client:NAME, group:NAME"};
  *answer = json{{"limit", scope}}.dump();
  if (verb == "set" && words.size() == 6) {
    log::info("limit of {}: {} GPUs, {} MiB, {} leases", scope, words[3], words[4], words[5]);
    return store_->put(scope, {atof(words[3].c_str()), atoll(words[4].c_str()), atoll(words[5].c_str())});
  }
  if (verb == "remove" && words.size() == 3) return store_->remove_limit(scope);
  return unknown_command();
}

// token pin | list | add NAME ID HASH EXPIRES ADMIN GROUP | rotate NAME ID HASH | disable NAME | enable NAME | remove NAME.
// The secret is made by whoever asks and never gets here: HASH is hexadecimal SHA-256.
Status Daemon::run_token_command(const std::vector<std::string>& words, std::string* answer) {
  if (options_.dev) return {StatusCode::kInvalid, "a server with --dev takes no tokens"};
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
    if (name.empty() || name.size() > 64 || token.id.size() != 16 || token.hash.size() != 32 || store_->token(token.id) != nullptr)
      return {StatusCode::kInvalid, "this is not a token"};
    log::info("token '{}' made", name);
    audit_.write("token-made", {{"token", name}});
    return store_->put(token);
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
    return store_->remove_token(name);
  } else {
    return unknown_command();
  }
  log::info("token '{}': {}", name, verb);
  audit_.write("token-changed", {{"token", name}, {"how", verb}});
  return store_->put(token);
}

}  // namespace bf::daemon
