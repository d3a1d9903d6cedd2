#include "tools/servers.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace bf::tools {
namespace {

constexpr size_t kServers = 1024;    // a pool of that size wants a pool manager, not a file
constexpr size_t kServersFileBytes = 1 << 20;

Result<std::vector<transport::Address>> parse_words(const std::vector<std::string>& words, const std::string& name) {
  std::vector<transport::Address> servers;
  for (auto& word : words) {
    auto address = transport::parse_address(word, kDefaultPort);
    if (!address.ok()) return Status{address.status().code(), name + ": " + address.status().message()};
    bool known = std::any_of(servers.begin(), servers.end(),
                             [&](auto& other) { return other.to_string() == address->to_string(); });
    if (!known) servers.push_back(std::move(*address));
    if (servers.size() > kServers)
      return Status{StatusCode::kInvalid, name + ": names more than " + std::to_string(kServers) + " servers"};
  }
  return servers;
}

// Empty if the file is not there and need not be.
Result<std::vector<transport::Address>> read_servers(const std::string& path, bool required) {
  std::ifstream file(path);
  if (!file) {
    if (!required) return std::vector<transport::Address>{};
    return Status{StatusCode::kInvalid, path + ": cannot be read; it should hold one host[:port] per line"};
  }
  std::string text(kServersFileBytes, '\0');
  file.read(text.data(), std::streamsize(text.size()));
  text.resize(size_t(file.gcount()));
  return parse_servers(text, path);
}

bool is_yaml(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("servers:")) return true;
  return false;
}

// Appends the address, or the addresses of a list.
Status collect(const YAML::Node& node, const std::string& name, std::vector<std::string>& words) {
  if (node.IsScalar()) {
    words.push_back(node.Scalar());
    return {};
  }
  if (node.IsSequence()) {
    for (const auto& entry : node) BF_RETURN_IF_ERROR(collect(entry, name, words));
    return {};
  }
  if (node.IsMap())
    for (const char* key : {"address", "addresses", "reachable"})
      if (node[key]) return collect(node[key], name, words);
  return {StatusCode::kInvalid, name + ":" + std::to_string(node.Mark().line + 1) +
                                    ": write an address, or a map with 'address', 'addresses' or 'reachable'"};
}

Result<std::vector<transport::Address>> parse_yaml(const std::string& text, const std::string& name) {
  std::vector<std::string> words;
  try {
    YAML::Node servers = YAML::Load(text)["servers"];
    if (servers && !servers.IsNull()) BF_RETURN_IF_ERROR(collect(servers, name, words));
  } catch (const YAML::Exception& error) {
    return Status{StatusCode::kInvalid, name + ":" + std::to_string(error.mark.line + 1) + ": " + error.msg};
  }
  return parse_words(words, name);
}

}  // namespace

Result<std::vector<transport::Address>> parse_servers(const std::string& text, const std::string& name) {
  if (is_yaml(text)) return parse_yaml(text, name);
  std::vector<transport::Address> servers;
  std::istringstream lines(text);
  std::string line;
  std::vector<std::string> words;
  for (int number = 1; std::getline(lines, line); number++) {
    std::istringstream rest(line.substr(0, line.find('#')));
    std::string word, surplus;
    if (!(rest >> word)) continue;
    std::string where = name + ":" + std::to_string(number);
    if (rest >> surplus) return Status{StatusCode::kInvalid, where + ": write one host[:port] per line"};
    auto checked = parse_words({word}, where);
    if (!checked.ok()) return checked.status();
    words.push_back(word);
  }
  return parse_words(words, name);
}

Result<std::vector<transport::Address>> find_servers(const std::vector<std::string>& given, const std::string& file) {
  if (!given.empty()) return parse_words(given, "--server");
  if (!file.empty()) {
    auto servers = read_servers(file, true);
    if (servers.ok() && servers->empty()) return Status{StatusCode::kInvalid, file + ": names no server"};
    return servers;
  }
  if (const char* variable = std::getenv("BF_SERVERS"); variable != nullptr) {
    std::string text = variable;
    std::replace(text.begin(), text.end(), ',', ' ');
    std::istringstream in(text);
    std::vector<std::string> words;
    for (std::string word; in >> word;) words.push_back(word);
    if (!words.empty()) return parse_words(words, "BF_SERVERS");
  }
  std::vector<std::string> paths;
  if (const char* home = std::getenv("HOME"); home != nullptr)
    paths.push_back(std::string(home) + "/.backfield/servers.conf");
  paths.push_back("/etc/backfield/servers.conf");
  for (auto& path : paths) {
    auto servers = read_servers(path, false);
    if (!servers.ok() || !servers->empty()) return servers;
  }
  return Status{StatusCode::kInvalid,
                "no server is known: say --server HOST[:PORT], set BF_SERVERS, or write one host[:port] per line into "
                "~/.backfield/servers.conf or /etc/backfield/servers.conf"};
}

}  // namespace bf::tools
