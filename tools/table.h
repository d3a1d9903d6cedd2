// Tables for people: columns as wide as their widest cell, colour only where it is a terminal that is written to.
#pragma once

#include <string>
#include <vector>

namespace bf::tools {

enum class Colour { kNone, kGreen, kYellow, kRed, kBold };

struct Cell {
  std::string text;
  Colour colour = Colour::kNone;
  bool right = false;  // aligned
};

class Table {
 public:
  explicit Table(std::vector<std::string> headings);
  void add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }
  // All of it, each line ended; colours only if asked for.
  std::string render(bool coloured) const;

 private:
  std::vector<std::vector<Cell>> rows_;  // the first is the heading
};

}  // namespace bf::tools
