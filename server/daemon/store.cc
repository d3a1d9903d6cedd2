#include "server/daemon/store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>

namespace bf::daemon {
namespace {

constexpr int kVersion = 1;
constexpr const char* kTables =
    "CREATE TABLE tokens (id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, grp TEXT, hash BLOB NOT NULL, created INTEGER,"
    " expires INTEGER, disabled INTEGER, admin INTEGER);"
    "CREATE TABLE limits (scope TEXT PRIMARY KEY, gpus REAL, memory_mib INTEGER, leases INTEGER);"
    "CREATE TABLE history (id TEXT PRIMARY KEY, client TEXT, host TEXT, program TEXT, began INTEGER, ended INTEGER,"
    " gpus INTEGER, memory_mib INTEGER, end_reason TEXT);"
    "CREATE INDEX history_by_end ON history (ended);"
    "PRAGMA user_version = 1;";

Status failed(sqlite3* database) {
  return {StatusCode::kInternal, std::string("the state database: ") + sqlite3_errmsg(database)};
}

Status execute(sqlite3* database, const char* sql) {
  return sqlite3_exec(database, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? ok_status() : failed(database);
}

// A prepared statement; columns and parameters count from 0.
class Statement {
 public:
  Statement(sqlite3* database, const char* sql) : database_(database) {
    sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;

  Statement& bind(const std::string& text) {
    sqlite3_bind_text(statement_, ++bound_, text.data(), int(text.size()), SQLITE_TRANSIENT);
    return *this;
  }
  Statement& bind_bytes(const std::string& bytes) {
    sqlite3_bind_blob(statement_, ++bound_, bytes.data(), int(bytes.size()), SQLITE_TRANSIENT);
    return *this;
  }
  Statement& bind(int64_t number) {
    sqlite3_bind_int64(statement_, ++bound_, number);
    return *this;
  }
  Statement& bind(double number) {
    sqlite3_bind_double(statement_, ++bound_, number);
    return *this;
  }

  bool next() { return (result_ = sqlite3_step(statement_)) == SQLITE_ROW; }
  Status run() { return next() || result_ == SQLITE_DONE ? ok_status() : failed(database_); }
  Status status() const { return result_ == SQLITE_DONE ? ok_status() : failed(database_); }

  std::string text(int column) const {
    auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    return bytes == nullptr ? std::string() : std::string(bytes, size_t(sqlite3_column_bytes(statement_, column)));
  }
  int64_t number(int column) const { return sqlite3_column_int64(statement_, column); }
  double real(int column) const { return sqlite3_column_double(statement_, column); }

 private:
  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
  int result_ = SQLITE_ERROR;
};

}  // namespace

Result<std::unique_ptr<Store>> Store::open(const std::string& path) {
  if (path != ":memory:") {
    // SQLite gives its other files the mode of this one.
    int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return errno_status("cannot open " + path, errno);
    ::close(fd);
  }
  sqlite3* database = nullptr;
  int opened = sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  std::unique_ptr<Store> store(new Store(database));
  if (opened != SQLITE_OK) return failed(database);
  sqlite3_busy_timeout(database, 2000);  // `bf backup` reads it meanwhile
  BF_RETURN_IF_ERROR(execute(database, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"));
  int64_t version = 0;
  {
    Statement ask(database, "PRAGMA user_version");
    if (!ask.next()) return failed(database);
    version = ask.number(0);
  }
  if (version > kVersion)
    return Status{StatusCode::kInvalid, path + " was written by a newer Backfield; install that version"};
  if (version == 0) BF_RETURN_IF_ERROR(execute(database, kTables));
  BF_RETURN_IF_ERROR(store->load());
  return store;
}

Store::~Store() { sqlite3_close(database_); }

Status Store::load() {
  Statement tokens(database_, "SELECT id, name, grp, hash, created, expires, disabled, admin FROM tokens");
  while (tokens.next())
    tokens_[tokens.text(0)] = {tokens.text(0),   tokens.text(1),   tokens.text(2),        tokens.text(3),
                               tokens.number(4), tokens.number(5), tokens.number(6) != 0, tokens.number(7) != 0};
  BF_RETURN_IF_ERROR(tokens.status());
  Statement limits(database_, "SELECT scope, gpus, memory_mib, leases FROM limits");
  while (limits.next()) limits_[limits.text(0)] = {limits.real(1), limits.number(2), limits.number(3)};
  return limits.status();
}

const Token* Store::token(const std::string& id) const {
  auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second;
}

const Token* Store::token_named(const std::string& name) const {
  for (auto& [id, token] : tokens_)
    if (token.name == name) return &token;
  return nullptr;
}

Status Store::put(const Token& token) {
  Statement put(database_, "REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
  put.bind(token.id).bind(token.name).bind(token.group).bind_bytes(token.hash).bind(int64_t(token.created));
  put.bind(int64_t(token.expires)).bind(int64_t(token.disabled)).bind(int64_t(token.admin));
  BF_RETURN_IF_ERROR(put.run());
  std::erase_if(tokens_, [&](auto& entry) { return entry.second.name == token.name; });
  tokens_[token.id] = token;
  return {};
}

Status Store::remove_token(const std::string& name) {
  BF_RETURN_IF_ERROR(Statement(database_, "DELETE FROM tokens WHERE name = ?").bind(name).run());
  std::erase_if(tokens_, [&](auto& entry) { return entry.second.name == name; });
  return {};
}

Status Store::put(const std::string& scope, const Limit& limit) {
  Statement put(database_, "REPLACE INTO limits VALUES (?, ?, ?, ?)");
  BF_RETURN_IF_ERROR(put.bind(scope).bind(limit.gpus).bind(limit.memory_mib).bind(limit.leases).run());
  limits_[scope] = limit;
  return {};
}

Status Store::remove_limit(const std::string& scope) {
  BF_RETURN_IF_ERROR(Statement(database_, "DELETE FROM limits WHERE scope = ?").bind(scope).run());
  limits_.erase(scope);
  return {};
}

Status Store::replace(const std::vector<Token>& tokens, const std::vector<std::pair<std::string, Limit>>& limits) {
  auto write = [&]() -> Status {
    BF_RETURN_IF_ERROR(execute(database_, "DELETE FROM tokens; DELETE FROM limits"));
    for (auto& token : tokens) BF_RETURN_IF_ERROR(put(token));
    for (auto& [scope, limit] : limits) BF_RETURN_IF_ERROR(put(scope, limit));
    return {};
  };
  BF_RETURN_IF_ERROR(execute(database_, "BEGIN IMMEDIATE"));
  tokens_.clear();
  limits_.clear();
  Status written = write();
  Status ended = execute(database_, written.ok() ? "COMMIT" : "ROLLBACK");
  if (written.ok() && ended.ok()) return {};
  tokens_.clear();
  limits_.clear();
  Status loaded = load();
  return !written.ok() ? written : !ended.ok() ? ended : loaded;
}

Status Store::record(const PastLease& lease) {
  Statement put(database_, "REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)");
  put.bind(lease.id).bind(lease.client).bind(lease.host).bind(lease.program).bind(int64_t(lease.began));
  return put.bind(int64_t(lease.ended)).bind(int64_t(lease.gpus)).bind(int64_t(lease.memory_mib)).bind(lease.end_reason).run();
}

Result<std::vector<PastLease>> Store::history(size_t most) const {
  Statement ask(database_,
                "SELECT id, client, host, program, began, ended, gpus, memory_mib, end_reason FROM history"
                " ORDER BY ended DESC LIMIT ?");
  ask.bind(int64_t(most));
  std::vector<PastLease> all;
  while (ask.next())
    all.push_back({ask.text(0), ask.text(1), ask.text(2), ask.text(3), ask.number(4), ask.number(5),
                   uint32_t(ask.number(6)), uint64_t(ask.number(7)), ask.text(8)});
  if (Status read = ask.status(); !read.ok()) return read;
  return all;
}

Status Store::forget_before(time_t unix_time) {
  return Statement(database_, "DELETE FROM history WHERE ended < ?").bind(int64_t(unix_time)).run();
}

}  // namespace bf::daemon
