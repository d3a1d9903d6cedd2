#include "tools/table.h"

#include <gtest/gtest.h>

namespace bf::tools {
namespace {

TEST(Table, AlignsItsColumns) {
  Table table({"NAME", "MIB", "STATE"});
  table.add({{"a"}, {"5", Colour::kNone, true}, {"free", Colour::kGreen}});
  table.add({{"l\xc3\xa4nger"}, {"12345", Colour::kNone, true}, {"in use"}});
  EXPECT_EQ(table.render(false),
            "NAME      MIB  STATE\n"
            "a           5  free\n"
            "l\xc3\xa4nger  12345  in use\n");
  EXPECT_NE(table.render(true).find("\033[32mfree\033[0m"), std::string::npos);
}

}  // namespace
}  // namespace bf::tools
