#include "server/daemon/configuration.h"

#include <unistd.h>

#include "base/hex.h"
#include "server/daemon/authority.h"

namespace bf::daemon {

using nlohmann::json;

json to_json(const Token& token) {
  return {{"id", token.id},           {"name", token.name},         {"group", token.group},
          {"hash", to_hex(token.hash)}, {"created", token.created}, {"expires", token.expires},
          {"disabled", token.disabled}, {"admin", token.admin}};
}

json to_json(const Limit& limit) {
  return {{"gpus", limit.gpus}, {"memory_mib", limit.memory_mib}, {"leases", limit.leases}};
}

std::optional<Token> token_of(const json& object) {
  try {
    Token token{.id = object.at("id"), .name = object.at("name"), .group = object.at("group"), .hash = from_hex(object.at("hash").get<std::string>()).value_or("")};
    token.created = object.at("created");
    token.expires = object.at("expires");
    token.disabled = object.at("disabled");
    token.admin = object.at("admin");
    if (token.hash.size() == 32 && !token.name.empty()) return token;
  } catch (const json::exception&) {
  }
  return std::nullopt;
}

std::optional<Limit> limit_of(const json& object) {
  try {
    return Limit{object.at("gpus"), object.at("memory_mib"), object.at("leases")};
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

Configuration configuration_of(const Store& store, const std::string& state_dir) {
  Configuration all;
  if (auto ca = read_file(state_dir + "/ca.pem"), key = read_file(state_dir + "/ca-key.pem"); ca.ok() && key.ok()) {
    all.ca = *ca;
    all.ca_key = *key;
  }
  for (auto& [id, token] : store.tokens()) all.tokens.push_back(token);
  all.limits.assign(store.limits().begin(), store.limits().end());
  return all;
}

Status adopt(const Configuration& configuration, Store& store, const std::string& state_dir) {
  const std::string ca = state_dir + "/ca.pem", ca_key = state_dir + "/ca-key.pem";
  auto known = read_file(ca), known_key = read_file(ca_key);
  bool same = known.ok() && *known == configuration.ca && known_key.ok() && *known_key == configuration.ca_key;
  if (!configuration.ca.empty() && !same) {
    auto parsed = transport::Tls::Certificate::parse(configuration.ca, configuration.ca_key);
    if (!parsed.ok()) return {StatusCode::kInvalid, "the pool's authority is damaged: " + parsed.status().message()};
    BF_RETURN_IF_ERROR(write_file(ca_key, configuration.ca_key));
    BF_RETURN_IF_ERROR(write_file(ca, configuration.ca));
    // What the old one signed will not do any more.
    for (const char* own : {"/server.pem", "/server-key.pem", "/etcd.pem", "/etcd-key.pem"}) ::unlink((state_dir + own).c_str());
  }
  return store.replace(configuration.tokens, configuration.limits);
}

}  // namespace bf::daemon
