// Tokens: who this client is, and which pool it believes. One line of text,
//
//   backfield1.TOKEN-ID.SECRET.PIN        (hexadecimal; the pin is SHA-256 of the public key of the pool's authority)
//
// in a file of its own, with # comments: $BF_TOKEN_FILE, ~/.backfield/token or /etc/backfield/token, the first there is.
#pragma once

#include <optional>
#include <string>

#include "base/status.h"

namespace bf::tools {

struct Token {
  std::string id;      // 16 digits
  std::string secret;  // 32 bytes
  std::string pin;     // 32 bytes
};

std::string to_text(const Token& token);
// kInvalid naming `where` if it is not one.
Result<Token> parse_token(const std::string& text, const std::string& where);
// Nothing if no file is there. An empty BF_TOKEN_FILE stands for none.
Result<std::optional<Token>> find_token();

}  // namespace bf::tools
