// CUDA_VISIBLE_DEVICES as driver 580.159.04 reads it with one GPU (measured), and what follows for several.
#include <gtest/gtest.h>

#include "base/cuda_environment.h"

namespace bf {
namespace {

using Positions = std::vector<size_t>;

const std::vector<std::string> kUuids = {"GPU-aaaa1111-0000-0000-0000-000000000001", "GPU-aaaa2222-0000-0000-0000-000000000002",
                                         "GPU-bbbb0000-0000-0000-0000-000000000003"};

Positions chosen(const char* text) {
  const VisibleDevices visible = choose_devices(std::string(text), kUuids);
  EXPECT_FALSE(visible.twice) << text;
  return visible.devices;
}

TEST(VisibleDevices, Indices) {
  EXPECT_EQ(choose_devices(std::nullopt, kUuids).devices, (Positions{0, 1, 2}));
  EXPECT_EQ(chosen(""), Positions{});
  EXPECT_EQ(chosen("2,0"), (Positions{2, 0}));
  EXPECT_EQ(chosen(" 1 , 0 "), (Positions{1, 0}));
  EXPECT_EQ(chosen("1,7,0"), Positions{1});
  EXPECT_EQ(chosen("1,-1,0"), Positions{1});
  EXPECT_EQ(chosen("-1,0"), Positions{});
  EXPECT_EQ(chosen("0,,1"), Positions{0});
  EXPECT_EQ(chosen(",0"), Positions{});
  EXPECT_EQ(chosen("0x1"), Positions{1});
  EXPECT_EQ(chosen("0garbage"), Positions{0});
  EXPECT_EQ(chosen("4294967297"), Positions{1});
  EXPECT_EQ(chosen("none"), Positions{});
}

TEST(VisibleDevices, Uuids) {
  EXPECT_EQ(chosen("GPU-bbbb"), Positions{2});
  EXPECT_EQ(chosen("GPU-BBBB,GPU-aaaa2"), (Positions{2, 1}));
  EXPECT_EQ(chosen("GPU-aaaa"), Positions{}) << "more than one begins so";
  EXPECT_EQ(chosen("GPU-"), Positions{});
  EXPECT_EQ(chosen((kUuids[1] + "00").c_str()), Positions{1});
  EXPECT_EQ(chosen("GPU-bbbb,0"), Positions{2}) << "indices and UUIDs do not mix";
  EXPECT_EQ(chosen("MIG-GPU-bbbb"), Positions{});
}

TEST(VisibleDevices, NamedTwice) {
  EXPECT_TRUE(choose_devices("0,0", kUuids).twice);
  EXPECT_TRUE(choose_devices("GPU-bbbb,GPU-bbbb0", kUuids).twice);
  EXPECT_TRUE(choose_devices("0,0", kUuids).devices.empty());
}

}  // namespace
}  // namespace bf
