#include "tools/table.h"

#include <algorithm>

namespace bf::tools {
namespace {

const char* code(Colour colour) {
  switch (colour) {
    case Colour::kGreen:
      return "\033[32m";
    case Colour::kYellow:
      return "\033[33m";
    case Colour::kRed:
      return "\033[31m";
    case Colour::kBold:
      return "\033[1m";
    case Colour::kNone:
      break;
  }
  return "";
}

// Characters, not bytes: names may hold UTF-8.
size_t width(const std::string& text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (uint8_t(c) & 0xc0) != 0x80; }));
}

}  // namespace

Table::Table(std::vector<std::string> headings) {
  auto& row = rows_.emplace_back();
  for (auto& heading : headings) row.push_back({heading, Colour::kBold});
}

std::string Table::render(bool coloured) const {
  std::vector<size_t> widths(rows_[0].size());
  for (auto& row : rows_)
    for (size_t i = 0; i < row.size(); i++) widths[i] = std::max(widths[i], width(row[i].text));
  std::string text;
  for (auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); i++) {
      const Cell& cell = row[i];
      // A heading stands over its column the way the column's cells do.
      bool right = rows_.size() > 1 && i < rows_[1].size() && rows_[1][i].right;
      std::string padding(widths[i] - width(cell.text), ' ');
      std::string shown =
          coloured && cell.colour != Colour::kNone ? code(cell.colour) + cell.text + "\033[0m" : cell.text;
      if (i > 0) line += "  ";
      line += right ? padding + shown : i + 1 < row.size() ? shown + padding : shown;
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace bf::tools
