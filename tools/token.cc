#include "tools/token.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/hex.h"

namespace bf::tools {
namespace {

constexpr size_t kTokenFileBytes = 64 << 10;
constexpr const char* kPrefix = "backfield1";

}  // namespace

std::string to_text(const Token& token) {
  return std::string(kPrefix) + "." + token.id + "." + to_hex(token.secret) + "." + to_hex(token.pin);
}

Result<Token> parse_token(const std::string& text, const std::string& where) {
  const Status wrong{StatusCode::kInvalid, where + ": holds no token; copy what 'bf token create' printed"};
  std::istringstream lines(text);
  std::string word;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream rest(line.substr(0, line.find('#')));
    std::string one;
    if (!(rest >> one)) continue;
    if (!word.empty()) return wrong;
    word = one;
  }
  std::vector<std::string> parts;
  std::istringstream fields(word);
  for (std::string field; std::getline(fields, field, '.');) parts.push_back(field);
  if (parts.size() != 4 || parts[0] != kPrefix) return wrong;
  auto id = from_hex(parts[1]), secret = from_hex(parts[2]), pin = from_hex(parts[3]);
  if (!id || id->size() != 8 || !secret || secret->size() != 32 || !pin || pin->size() != 32) return wrong;
  return Token{parts[1], *secret, *pin};
}

Result<std::optional<Token>> find_token() {
  std::vector<std::string> paths;
  if (const char* named = std::getenv("BF_TOKEN_FILE"); named != nullptr) {
    if (*named == '\0') return std::optional<Token>();
    paths.push_back(named);
    if (::access(named, R_OK) != 0)
      return Status{StatusCode::kInvalid, std::string(named) + " (BF_TOKEN_FILE) cannot be read: " + strerror(errno)};
  } else {
    if (const char* home = std::getenv("HOME"); home != nullptr) paths.push_back(std::string(home) + "/.backfield/token");
    paths.push_back("/etc/backfield/token");
  }
  for (auto& path : paths) {
    if (::access(path.c_str(), F_OK) != 0) continue;
    std::ifstream file(path);
    std::string text(kTokenFileBytes, '\0');
    file.read(text.data(), std::streamsize(text.size()));
    if (!file && !file.eof()) return Status{StatusCode::kInvalid, path + " cannot be read: " + strerror(errno)};
    text.resize(size_t(file.gcount()));
    auto token = parse_token(text, path);
    if (!token.ok()) return token.status();
    return std::optional<Token>(std::move(*token));
  }
  return std::optional<Token>();
}

}  // namespace bf::tools
