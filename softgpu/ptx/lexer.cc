#include "softgpu/ptx/lexer.h"

#include <bit>
#include <cstdlib>
#include <string>

namespace bf::ptx {
namespace {

bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '$' || c == '%'; }
bool digit(char c) { return c >= '0' && c <= '9'; }
bool name_char(char c) { return letter(c) || digit(c); }

int hex_value(char c) {
  if (digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Digits in `base`; false if one does not belong or the value needs more than 64 bits.
bool parse_digits(std::string_view digits, unsigned base, uint64_t& value) {
  value = 0;
  if (digits.empty()) return false;
  for (char c : digits) {
    int d = hex_value(c);
    if (d < 0 || unsigned(d) >= base) return false;
    if (value > (~uint64_t{0} - unsigned(d)) / base) return false;
    value = value * base + unsigned(d);
  }
  return true;
}

}  // namespace

void Lexer::skip_line() {
  while (at_ < text_.size() && text_[at_] != '\n') ++at_;
}

// Blanks and comments; false at the end of the text.
bool Lexer::skip_blank() {
  while (at_ < text_.size()) {
    char c = text_[at_];
    if (c == '\n') {
      ++line_, ++at_;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
      ++at_;
    } else if (c == '/' && at_ + 1 < text_.size() && text_[at_ + 1] == '/') {
      skip_line();
    } else if (c == '/' && at_ + 1 < text_.size() && text_[at_ + 1] == '*') {
      size_t end = text_.find("*/", at_ + 2);
      if (end == std::string_view::npos) end = text_.size() - 2 > at_ ? text_.size() - 2 : at_;
      for (size_t i = at_; i < end; ++i) line_ += text_[i] == '\n';
      at_ = end + 2;
    } else {
      return c != '\0';
    }
  }
  return false;
}

Token Lexer::number() {
  Token token{TokenKind::kInt, {}, 0, line_};
  size_t start = at_;
  while (at_ < text_.size() &&
         (name_char(text_[at_]) || text_[at_] == '.' ||
          ((text_[at_] == '-' || text_[at_] == '+') && at_ > start &&
           (text_[at_ - 1] == 'e' || text_[at_ - 1] == 'E') && text_[start + 1] != 'x' && text_[start + 1] != 'X' &&
           text_[start + 1] != 'f' && text_[start + 1] != 'F' && text_[start + 1] != 'd' && text_[start + 1] != 'D')))
    ++at_;
  std::string_view text = text_.substr(start, at_ - start);
  token.text = text;
  char second = text.size() > 1 ? char(text[1] | 0x20) : ' ';
  bool ok = true;
  if (text[0] == '0' && (second == 'f' || second == 'd') && text.size() > 2) {
    ok = text.size() == (second == 'f' ? 10u : 18u) && parse_digits(text.substr(2), 16, token.bits);
    token.kind = second == 'f' ? TokenKind::kFloat32 : TokenKind::kFloat64;
  } else if (text.find('.') != std::string_view::npos ||
             (second != 'x' && text.find_first_of("eE") != std::string_view::npos)) {
    ok = text.size() < 64;
    if (ok) {
      std::string copy(text);
      char* end = nullptr;
      token.bits = std::bit_cast<uint64_t>(strtod(copy.c_str(), &end));
      ok = *end == '\0';
    }
    token.kind = TokenKind::kFloat64;
  } else {
    if (text.back() == 'U' || text.back() == 'u') text.remove_suffix(1);
    if (second == 'x' && text[0] == '0') {
      ok = parse_digits(text.substr(2), 16, token.bits);
    } else if (second == 'b' && text[0] == '0') {
      ok = parse_digits(text.substr(2), 2, token.bits);
    } else if (text[0] == '0' && text.size() > 1) {
      ok = parse_digits(text, 8, token.bits);
    } else {
      ok = parse_digits(text, 10, token.bits);
    }
  }
  if (!ok) token.kind = TokenKind::kBad;
  return token;
}

Token Lexer::next() {
  if (!skip_blank()) return {TokenKind::kEnd, {}, 0, line_};
  Token token{TokenKind::kPunct, text_.substr(at_, 1), 0, line_};
  char c = text_[at_];
  size_t start = at_;
  if (digit(c)) return number();
  if (letter(c)) {
    while (at_ < text_.size() && name_char(text_[at_])) ++at_;
    token.kind = TokenKind::kName;
    token.text = text_.substr(start, at_ - start);
    return token;
  }
  if (c == '.') {
    ++at_;
    while (at_ < text_.size() &&
           (name_char(text_[at_]) || (text_[at_] == ':' && at_ + 2 < text_.size() && text_[at_ + 1] == ':') ||
            (text_[at_] == ':' && text_[at_ - 1] == ':')))
      ++at_;
    token.kind = at_ > start + 1 ? TokenKind::kDot : TokenKind::kBad;
    token.text = text_.substr(start + 1, at_ - start - 1);
    return token;
  }
  if (c == '"') {
    size_t end = text_.find('"', at_ + 1);
    if (end == std::string_view::npos) {
      token.kind = TokenKind::kBad;
      at_ = text_.size();
      return token;
    }
    token.kind = TokenKind::kString;
    token.text = text_.substr(at_ + 1, end - at_ - 1);
    for (char s : token.text) line_ += s == '\n';
    at_ = end + 1;
    return token;
  }
  ++at_;
  if (std::string_view("{}()[],;:@!|<>=+-~*&").find(c) == std::string_view::npos) token.kind = TokenKind::kBad;
  return token;
}

}  // namespace bf::ptx
