#include "server/daemon/cluster_config.h"

#include <unistd.h>

#include <filesystem>

#include "server/daemon/authority.h"
#include "transport/transport.h"

namespace bf::daemon {
namespace {

using nlohmann::json;

constexpr int kFileVersion = 1;
constexpr const char* kFile = "/cluster.json";
constexpr const char* kCa = "/etcd-ca.pem";
constexpr const char* kCertificate = "/etcd-client.pem";
constexpr const char* kKey = "/etcd-client-key.pem";

}  // namespace

std::string ClusterConfig::Member::url(uint16_t at) const {
  return "https://" + transport::Address{host, at, {}}.to_string();
}

Result<std::optional<ClusterConfig>> load_cluster(const std::string& state_dir) {
  const std::string path = state_dir + kFile;
  if (!exists(path)) return std::optional<ClusterConfig>();
  auto text = read_file(path);
  if (!text.ok()) return text.status();
  json file = json::parse(*text, nullptr, false);
  ClusterConfig config;
  try {
    if (file.at("backfield_cluster").get<int>() > kFileVersion)
      return Status{StatusCode::kInvalid, path + " was written by a newer Backfield; install that version"};
    config.server_id = file.at("server_id");
    config.endpoints = file.at("endpoints").get<std::vector<std::string>>();
    config.own_etcd = file.at("own_etcd");
    if (file.contains("member")) {
      auto& m = file["member"];
      config.member = {m.at("name"), m.at("host"), m.at("port"), m.at("initial_cluster"), m.at("first")};
    }
  } catch (const json::exception&) {
    return Status{StatusCode::kInvalid, path + " is damaged; remove it, and take part in the pool again: bf cluster join SERVER"};
  }
  return std::optional(std::move(config));
}

Status save_cluster(const ClusterConfig& config, const std::string& state_dir) {
  json file = {{"backfield_cluster", kFileVersion}, {"server_id", config.server_id}, {"endpoints", config.endpoints}, {"own_etcd", config.own_etcd}};
  if (auto& m = config.member)
    file["member"] = {{"name", m->name}, {"host", m->host}, {"port", m->port}, {"initial_cluster", m->initial_cluster}, {"first", m->first}};
  return write_file(state_dir + kFile, file.dump(1) + "\n");
}

void forget_cluster(const std::string& state_dir) {
  for (const char* name : {kFile, kCa, kCertificate, kKey, "/etcd.pem", "/etcd-key.pem"}) ::unlink((state_dir + name).c_str());
  forget_member(state_dir);
}

void forget_member(const std::string& state_dir) {
  std::error_code ignored;
  std::filesystem::remove_all(state_dir + "/etcd", ignored);
}

EtcdSecrets load_etcd_secrets(const std::string& state_dir) {
  auto text = [&](const char* name) {
    auto read = read_file(state_dir + name);
    return read.ok() ? *read : std::string();
  };
  return {text(kCa), text(kCertificate), text(kKey)};
}

Status save_etcd_secrets(const EtcdSecrets& secrets, const std::string& state_dir) {
  if (!secrets.ca.empty()) BF_RETURN_IF_ERROR(write_file(state_dir + kCa, secrets.ca));
  if (!secrets.certificate.empty()) BF_RETURN_IF_ERROR(write_file(state_dir + kCertificate, secrets.certificate));
  return secrets.key.empty() ? ok_status() : write_file(state_dir + kKey, secrets.key);
}

Etcd::Access access_of(const ClusterConfig& config, const std::string& state_dir) {
  if (config.own_etcd) return {config.endpoints, state_dir + "/ca.pem", state_dir + "/etcd.pem", state_dir + "/etcd-key.pem"};
  auto there = [&](const char* name) { return exists(state_dir + name) ? state_dir + name : std::string(); };
  return {config.endpoints, there(kCa), there(kCertificate), there(kKey)};
}

}  // namespace bf::daemon
