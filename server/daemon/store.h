// What a server remembers across restarts, in SQLite: tokens, limits, and the history of leases. Small and
// read into memory where it is asked often; every change is on disk when the function returns.
#pragma once

#include <cstdint>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

struct sqlite3;

namespace bf::daemon {

struct Token {
  std::string id;    // public
  std::string name;  // of the client, for people
  std::string group{};
  std::string hash;     // SHA-256 of the secret
  time_t created = 0;
  time_t expires = 0;  // 0: never
  bool disabled = false;
  bool admin = false;
};

// What a client, a group, every client by itself, a server or the whole pool may hold. Negative: no limit.
struct Limit {
  double gpus = -1;  // fractions of GPUs add up
  int64_t memory_mib = -1;
  int64_t leases = -1;
};

struct PastLease {
  std::string id, client, host, program;
  time_t began = 0, ended = 0;
  uint32_t gpus = 0;
  uint64_t memory_mib = 0;
  std::string end_reason;
};

class Store {
 public:
  // Makes the file (readable by its owner only) and its tables if they are missing. ":memory:" forgets everything.
  static Result<std::unique_ptr<Store>> open(const std::string& path);
  ~Store();
  Store(const Store&) = delete;

  const Token* token(const std::string& id) const;
  const Token* token_named(const std::string& name) const;
  const std::map<std::string, Token>& tokens() const { return tokens_; }  // by id
  // Adds it, or replaces the one of the same name.
  Status put(const Token& token);
  Status remove_token(const std::string& name);

  // Scopes: "pool", "server" (each by itself), "client" (each by itself), "client:NAME", "group:NAME".
  const std::map<std::string, Limit>& limits() const { return limits_; }
  Status put(const std::string& scope, const Limit& limit);
  Status remove_limit(const std::string& scope);

  // All tokens and limits at once, or none.
  Status replace(const std::vector<Token>& tokens, const std::vector<std::pair<std::string, Limit>>& limits);

  Status record(const PastLease& lease);
  // The latest first.
  Result<std::vector<PastLease>> history(size_t most) const;
  // Forgets leases that ended before `unix_time`.
  Status forget_before(time_t unix_time);

 private:
  explicit Store(sqlite3* database) : database_(database) {}
  Status load();

  sqlite3* database_;
  std::map<std::string, Token> tokens_;
  std::map<std::string, Limit> limits_;
};

}  // namespace bf::daemon
