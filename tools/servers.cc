#include "tools/servers.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

namespace bf::tools {
namespace {

constexpr size_t kServers = 1024;    // a pool of that size wants a pool manager, not a file
constexpr size_t kAskedAtOnce = 64;  // threads
constexpr size_t kFileBytes = 1 << 20;

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
  std::string text(kFileBytes, '\0');
  file.read(text.data(), std::streamsize(text.size()));
  text.resize(size_t(file.gcount()));
  return parse_servers(text, path);
}

}  // namespace

Result<std::vector<transport::Address>> parse_servers(const std::string& text, const std::string& name) {
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

Result<std::string> ask(const transport::Address& server, Opcode opcode, const std::string& body,
                        std::chrono::milliseconds time) {
  auto deadline = control::deadline_in(time);
  auto socket = transport::dial(server, time);
  if (!socket.ok()) return socket.status();
  return control::round_trip(socket->get(), opcode, body, deadline);
}

std::vector<Answer> ask_servers(const std::vector<transport::Address>& servers, std::chrono::milliseconds time,
                                bool sampled) {
  std::vector<Answer> answers(servers.size());
  auto ask_one = [&](size_t i) {
    answers[i].server = servers[i];
    auto body = ask(servers[i], Opcode::kList, control::encode_ListRequest({sampled}), time);
    if (body.ok()) {
      auto list = control::decode_ListReply(control::as_bytes(*body));
      if (list.ok())
        answers[i].list = std::move(*list);
      else
        answers[i].status = list.status();
    } else {
      answers[i].status = body.status();
    }
  };
  if (servers.size() == 1) {
    ask_one(0);
    return answers;
  }
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < std::min(servers.size(), kAskedAtOnce); t++)
    threads.emplace_back([&] {
      for (size_t i; (i = next++) < servers.size();) ask_one(i);
    });
  for (auto& thread : threads) thread.join();
  return answers;
}

std::string printable(const std::string& text) {
  std::string safe = text;
  for (char& c : safe)
    if (uint8_t(c) < 0x20 || c == 0x7f) c = '?';
  return safe;
}

}  // namespace bf::tools
