// PTX text to tokens, one at a time. Never fails: what it does not know is a kBad token, which no grammar rule accepts.
#pragma once

#include <cstdint>
#include <string_view>

namespace bf::ptx {

enum class TokenKind : uint8_t { kEnd, kName, kDot, kInt, kFloat32, kFloat64, kString, kPunct, kBad };

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string_view text;  // kDot: without the dot
  uint64_t bits = 0;      // value of numbers
  int line = 1;
  bool is(char punct) const { return kind == TokenKind::kPunct && text[0] == punct; }
};

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}
  Token next();
  void skip_line();  // up to the end of the current line

 private:
  bool skip_blank();
  Token number();
  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace bf::ptx
