// etcd's v3 API, through its JSON gateway, as far as a pool needs it. Every function blocks, for at most kPatience; an
// object belongs to one thread, and only stop() may be called from another.
//
// HTTP is libcurl's, loaded when a pool wants it: bfserver runs on hosts that have none.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/status.h"

namespace bf::daemon {

class Etcd {
 public:
  static constexpr auto kConnectTime = std::chrono::milliseconds(500);
  static constexpr auto kAnswerTime = std::chrono::milliseconds(1000);  // of one member
  static constexpr auto kPatience = std::chrono::milliseconds(3000);    // of all together
  static constexpr size_t kAnswerBytes = 64 << 20;
  static constexpr size_t kOperations = 100;  // of one transaction; etcd's own default allows 128

  struct Access {
    std::vector<std::string> endpoints;  // http(s)://HOST:PORT
    std::string ca_file;                 // empty: the system's authorities
    std::string certificate_file;        // of ours, with its key; empty: none is shown
    std::string key_file;
  };

  struct Entry {
    std::string key, value;
    int64_t revision = 0;  // of its last change
    int64_t lease = 0;
  };

  // All or nothing: if every condition holds, everything is done, in one revision.
  class Transaction {
   public:
    // The key was last changed in this revision; 0: there is no such key.
    Transaction& if_revision(const std::string& key, int64_t revision);
    Transaction& put(const std::string& key, const std::string& value, int64_t lease = 0);
    Transaction& remove(const std::string& key);
    Transaction& remove_prefix(const std::string& prefix);
    Transaction& read(const std::string& key);
    Transaction& read_prefix(const std::string& prefix);
    size_t size() const { return operations_.size(); }

   private:
    friend class Etcd;
    nlohmann::json conditions_ = nlohmann::json::array();
    nlohmann::json operations_ = nlohmann::json::array();
  };

  struct Outcome {
    bool done = false;  // false: a condition did not hold
    int64_t revision = 0;
    std::vector<std::vector<Entry>> reads;  // one for each read, in order
  };

  struct Member {
    std::string id, name;
    std::vector<std::string> peer_urls{}, client_urls{};
    bool learner = false;
  };

  // kUnavailable if this host has no libcurl.
  static Result<std::unique_ptr<Etcd>> open(Access access);
  ~Etcd();
  Etcd(const Etcd&) = delete;

  // Errors of all: kUnavailable if no member answers for a majority (for a transaction: it may have happened, or not);
  // kDenied if what is named does not exist; kInvalid for what etcd refuses.
  Result<Outcome> commit(const Transaction& transaction);
  Result<int64_t> grant(std::chrono::seconds time);  // a lease of etcd's: keys put with it vanish when it ends
  Status keep_alive(int64_t lease);                  // kDenied: it has ended
  Status revoke(int64_t lease);
  Result<std::vector<Member>> members();
  Result<std::vector<Member>> add_learner(const std::string& peer_url);
  Status promote(const std::string& member_id);
  Status remove_member(const std::string& member_id);
  // Whether the member at `endpoint` answers and knows a leader.
  bool well(const std::string& endpoint);

  const std::vector<std::string>& endpoints() const { return access_.endpoints; }
  void set_endpoints(std::vector<std::string> endpoints);
  // Ends what is going on, and everything from now on, with kUnavailable.
  void stop() { stopped_ = true; }

 private:
  explicit Etcd(Access access) : access_(std::move(access)) {}
  Result<nlohmann::json> call(const char* function, const nlohmann::json& request);
  Result<nlohmann::json> call_at(const std::string& endpoint, const char* function, const std::string& body,
                                 std::chrono::milliseconds time);

  Access access_;
  size_t last_good_ = 0;  // of the endpoints
  void* curl_ = nullptr;
  std::atomic<bool> stopped_ = false;
};

}  // namespace bf::daemon
