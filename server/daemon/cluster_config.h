// A server's place in a managed pool, as cluster.json in the state folder says.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "server/daemon/etcd.h"

namespace bf::daemon {

inline constexpr uint16_t kEtcdPort = 56002;  // of clients; members talk to one another on the next

struct ClusterConfig {
  // The member of etcd that this server runs.
  struct Member {
    std::string name;
    std::string host;
    uint16_t port = kEtcdPort;
    std::string initial_cluster{};  // NAME=URL,...
    bool first = false;           // of a new etcd; else it joins one

    std::string client_url() const { return url(port); }
    std::string peer_url() const { return url(uint16_t(port + 1)); }
    std::string url(uint16_t at) const;
  };

  std::string server_id;
  std::vector<std::string> endpoints;
  bool own_etcd = false;  // run by the pool's servers, with certificates of the pool's authority
  std::optional<Member> member;
};

// Nothing for a standalone server; kInvalid if the file is damaged.
Result<std::optional<ClusterConfig>> load_cluster(const std::string& state_dir);
Status save_cluster(const ClusterConfig& config, const std::string& state_dir);
// And all that belongs to it: certificates, the member's data.
void forget_cluster(const std::string& state_dir);
// What this server's member of etcd stored.
void forget_member(const std::string& state_dir);

// PEM texts for an etcd that the pool does not run itself; empty where there is none.
struct EtcdSecrets {
  std::string ca, certificate, key;
};
EtcdSecrets load_etcd_secrets(const std::string& state_dir);
Status save_etcd_secrets(const EtcdSecrets& secrets, const std::string& state_dir);

Etcd::Access access_of(const ClusterConfig& config, const std::string& state_dir);

}  // namespace bf::daemon
