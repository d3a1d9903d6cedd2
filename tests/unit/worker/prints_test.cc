#include "server/worker/prints.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace bf::server {
namespace {

using Text = std::pair<int, std::string>;

std::vector<Text> collect(Prints& prints) {
  std::vector<Text> texts;
  prints.collect([&](int fd, std::span<const std::byte> bytes) {
    texts.emplace_back(fd, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  });
  return texts;
}

TEST(Prints, AreWhatWasPrintedSince) {
  FILE* const out = stdout;
  {
    auto prints = Prints::capture();
    ASSERT_TRUE(prints.ok()) << prints.status().message();
    EXPECT_TRUE(collect(*prints).empty());
    printf("one %d", 1);
    fprintf(stderr, "two");
    fflush(stdout);
    printf(" and more");
    EXPECT_EQ(collect(*prints), (std::vector<Text>{{1, "one 1 and more"}, {2, "two"}}));
    EXPECT_TRUE(collect(*prints).empty());
    fputc(0, stdout);
    EXPECT_EQ(collect(*prints), (std::vector<Text>{{1, std::string(1, '\0')}}));
  }
  EXPECT_EQ(stdout, out);
}

TEST(Prints, ComeInSlicesThatAFrameHolds) {
  auto prints = Prints::capture();
  ASSERT_TRUE(prints.ok()) << prints.status().message();
  std::string text(100'000, 'x');
  text += "end";
  fwrite(text.data(), 1, text.size(), stdout);
  std::string all;
  for (const auto& [fd, slice] : collect(*prints)) {
    EXPECT_EQ(fd, 1);
    EXPECT_LE(slice.size(), 16u << 10);
    all += slice;
  }
  EXPECT_EQ(all, text);
}

}  // namespace
}  // namespace bf::server
