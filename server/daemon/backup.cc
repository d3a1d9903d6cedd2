#include "server/daemon/backup.h"

#include "server/daemon/authority.h"

namespace bf::daemon {
namespace {

using nlohmann::json;

constexpr int kBackupVersion = 1;

}  // namespace

std::string backup_of(const Configuration& configuration) {
  json file = {{"backfield_backup", kBackupVersion}, {"tokens", json::array()}, {"limits", json::array()}};
  if (!configuration.ca.empty()) {
    file["ca.pem"] = configuration.ca;
    file["ca-key.pem"] = configuration.ca_key;
  }
  for (auto& token : configuration.tokens) file["tokens"].push_back(to_json(token));
  for (auto& [scope, limit] : configuration.limits) {
    json entry = to_json(limit);
    entry["scope"] = scope;
    file["limits"].push_back(std::move(entry));
  }
  return file.dump();
}

Result<Configuration> read_backup(const std::string& text, const std::string& name) {
  const Status damaged{StatusCode::kInvalid, name + " is no backup, or a damaged one"};
  json file = json::parse(text, nullptr, false);
  Configuration all;
  try {
    if (file.at("backfield_backup").get<int>() > kBackupVersion)
      return Status{StatusCode::kInvalid, name + " was written by a newer Backfield; install that version"};
    for (auto& one : file.at("tokens")) {
      auto token = token_of(one);
      if (!token) return damaged;
      all.tokens.push_back(std::move(*token));
    }
    for (auto& one : file.at("limits")) {
      auto limit = limit_of(one);
      if (!limit) return damaged;
      all.limits.emplace_back(one.at("scope"), *limit);
    }
    if (file.contains("ca.pem")) {
      all.ca = file.at("ca.pem");
      all.ca_key = file.at("ca-key.pem");
      if (!transport::Tls::Certificate::parse(all.ca, all.ca_key).ok()) return damaged;
    }
  } catch (const json::exception&) {
    return damaged;
  }
  return all;
}

}  // namespace bf::daemon
