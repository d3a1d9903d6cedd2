#include "server/worker/images.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/limits.h"

namespace bf::server {
namespace {

std::vector<std::byte> bytes(std::string_view text) {
  std::vector<std::byte> out(text.size());
  std::memcpy(out.data(), text.data(), text.size());
  return out;
}

TEST(Images, SlicesMakeAnImageThatIsFoundByItsHash) {
  Images images;
  const auto data = bytes(".version 7.0 and so on");
  const Sha256 hash = sha256(data);
  const std::span<const std::byte> all(data);
  EXPECT_EQ(images.put(hash, data.size(), 0, all.first(5)), nullptr);
  EXPECT_EQ(images.find(hash), nullptr);
  EXPECT_EQ(images.put(hash, data.size(), 5, all.subspan(5)), nullptr);
  const auto image = images.find(hash);
  ASSERT_NE(image, nullptr);
  ASSERT_EQ(image->size(), data.size() + 1);
  EXPECT_EQ(std::memcmp(image->data(), data.data(), data.size()), 0);
  EXPECT_EQ(image->back(), std::byte{0});
}

TEST(Images, RefusesWhatDoesNotFitTogether) {
  Images images;
  const auto data = bytes("0123456789");
  const Sha256 hash = sha256(data);
  const std::span<const std::byte> all(data);
  EXPECT_NE(images.put(std::span(hash).first(31), 10, 0, all), nullptr);
  EXPECT_NE(images.put(hash, 10, 5, all.subspan(5)), nullptr);  // no first slice
  EXPECT_NE(images.put(hash, 0, 0, {}), nullptr);
  EXPECT_NE(images.put(hash, limits::kImageBytes + 1, 0, all), nullptr);
  EXPECT_NE(images.put(hash, 9, 0, all), nullptr);  // more bytes than announced
  EXPECT_EQ(images.put(hash, 10, 0, all.first(5)), nullptr);
  EXPECT_NE(images.put(hash, 11, 5, all.subspan(5)), nullptr);  // another total
  EXPECT_NE(images.put(hash, 10, 6, all.subspan(6)), nullptr);  // a gap
}

TEST(Images, AWrongHashPoisonsNothing) {
  Images images;
  const auto good = bytes("good"), evil = bytes("evil");
  EXPECT_NE(images.put(sha256(good), 4, 0, evil), nullptr);
  EXPECT_EQ(images.find(sha256(good)), nullptr);
  EXPECT_EQ(images.find(sha256(evil)), nullptr);
}

TEST(Images, BoundsUnfinishedOnes) {
  Images images;
  const auto data = bytes("x");
  for (uint32_t i = 0; i < Images::kUnfinished; ++i) {
    Sha256 hash{};
    hash[0] = std::byte(i);
    EXPECT_EQ(images.put(hash, 100, 0, data), nullptr);
  }
  Sha256 hash{};
  hash[0] = std::byte{200};
  EXPECT_NE(images.put(hash, 100, 0, data), nullptr);
}

}  // namespace
}  // namespace bf::server
