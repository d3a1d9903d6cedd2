#include "server/daemon/backup.h"

#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/hex.h"
#include "server/daemon/authority.h"

namespace bf::daemon {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

}  // namespace

Result<std::string> backup(const Store& store, const std::string& state_dir) {
  json file = {{"backfield_backup", kVersion}};
  for (const char* name : {"ca.pem", "ca-key.pem"}) {
    auto text = read_file(state_dir + "/" + name);
    // With certificates of the administrator's own there is no authority here.
    if (text.ok()) file[name] = *text;
  }
  file["tokens"] = json::array();
  for (auto& [id, token] : store.tokens())
    file["tokens"].push_back({{"id", id}, {"name", token.name}, {"group", token.group}, {"hash", to_hex(token.hash)},
                              {"created", token.created}, {"expires", token.expires}, {"disabled", token.disabled},
                              {"admin", token.admin}});
  file["limits"] = json::array();
  for (auto& [scope, limit] : store.limits())
    file["limits"].push_back({{"scope", scope}, {"gpus", limit.gpus}, {"memory_mib", limit.memory_mib}, {"leases", limit.leases}});
  return file.dump();
}

Status restore(Store& store, const std::string& state_dir, const std::string& path) {
  auto text = read_file(path);
  if (!text.ok()) return text.status();
  const Status damaged{StatusCode::kInvalid, path + " is no backup, or a damaged one"};
  std::vector<Token> tokens;
  std::vector<std::pair<std::string, Limit>> limits;
  json file = json::parse(*text, nullptr, false);
  try {
    if (file.at("backfield_backup").get<int>() > kVersion)
      return {StatusCode::kInvalid, path + " was written by a newer Backfield; install that version"};
    for (auto& one : file.at("tokens")) {
      Token token{.id = one.at("id"), .name = one.at("name"), .group = one.at("group"), .hash = from_hex(one.at("hash").get<std::string>()).value_or("")};
      token.created = one.at("created");
      token.expires = one.at("expires");
      token.disabled = one.at("disabled");
      token.admin = one.at("admin");
      if (token.hash.size() != 32 || token.name.empty()) return damaged;
      tokens.push_back(std::move(token));
    }
    for (auto& one : file.at("limits"))
      limits.emplace_back(one.at("scope"), Limit{one.at("gpus"), one.at("memory_mib"), one.at("leases")});
    if (file.contains("ca.pem")) {
      std::string ca = file.at("ca.pem"), key = file.at("ca-key.pem");
      if (!transport::Tls::Certificate::parse(ca, key).ok()) return damaged;
    }
  } catch (const json::exception&) {
    return damaged;
  }
  if (file.contains("ca.pem")) {
    BF_RETURN_IF_ERROR(write_file(state_dir + "/ca-key.pem", file["ca-key.pem"]));
    BF_RETURN_IF_ERROR(write_file(state_dir + "/ca.pem", file["ca.pem"]));
    for (const char* own : {"/server.pem", "/server-key.pem"}) ::unlink((state_dir + own).c_str());
  }
  return store.replace(tokens, limits);
}

}  // namespace bf::daemon
