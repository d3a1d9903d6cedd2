#include "server/worker/gaps.h"

#include <gtest/gtest.h>

namespace bf::server {
namespace {

TEST(Gaps, CloseInAnyOrder) {
  Gaps gaps(1000);
  EXPECT_EQ(gaps.first(300), (std::pair<uint64_t, size_t>(0, 300)));
  EXPECT_TRUE(gaps.take(400, 200));
  EXPECT_EQ(gaps.first(9999), (std::pair<uint64_t, size_t>(0, 400)));
  EXPECT_TRUE(gaps.take(0, 400));
  EXPECT_EQ(gaps.first(9999), (std::pair<uint64_t, size_t>(600, 400)));
  EXPECT_TRUE(gaps.take(900, 100));
  EXPECT_FALSE(gaps.none());
  EXPECT_TRUE(gaps.take(600, 300));
  EXPECT_TRUE(gaps.none());
  EXPECT_TRUE(Gaps(0).none());
}

TEST(Gaps, NothingIsTakenTwiceOrFromOutside) {
  Gaps gaps(1000);
  ASSERT_TRUE(gaps.take(200, 300));
  EXPECT_FALSE(gaps.take(200, 300));
  EXPECT_FALSE(gaps.take(100, 101));  // its end
  EXPECT_FALSE(gaps.take(499, 10));   // its beginning
  EXPECT_FALSE(gaps.take(0, 1000));   // what lies between
  EXPECT_FALSE(gaps.take(999, 2));
  EXPECT_FALSE(gaps.take(1000, 1));
  EXPECT_FALSE(gaps.take(500, SIZE_MAX));
  EXPECT_FALSE(gaps.take(UINT64_MAX, 2));
  EXPECT_TRUE(gaps.take(100, 100));
  EXPECT_TRUE(gaps.take(500, 500));
  EXPECT_TRUE(gaps.take(0, 100));
  EXPECT_TRUE(gaps.none());
}

}  // namespace
}  // namespace bf::server
