// A pool's configuration, all of it: its authority, tokens and limits. What a backup holds, and what the servers of a
// pool agree on.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "server/daemon/store.h"

namespace bf::daemon {

struct Configuration {
  std::string ca, ca_key;  // PEM; empty where certificates are the administrator's own
  std::vector<Token> tokens;
  std::vector<std::pair<std::string, Limit>> limits;
};

nlohmann::json to_json(const Token& token);
nlohmann::json to_json(const Limit& limit);
// Nothing if this is none.
std::optional<Token> token_of(const nlohmann::json& object);
std::optional<Limit> limit_of(const nlohmann::json& object);

// What this server keeps.
Configuration configuration_of(const Store& store, const std::string& state_dir);
// This server keeps that from now on. A new authority replaces the old one, and the server's own certificate is made
// again by the next make_credentials(). kInvalid, and nothing is changed, if the authority is damaged.
Status adopt(const Configuration& configuration, Store& store, const std::string& state_dir);

}  // namespace bf::daemon
