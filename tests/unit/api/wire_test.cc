#include "proto/api/wire.h"

#include <gtest/gtest.h>

#include <vector>

namespace bf::wire {
namespace {

std::span<const std::byte> bytes(const std::vector<uint8_t>& v) { return std::as_bytes(std::span(v)); }

TEST(Wire, VarintsAreProtobufs) {
  std::byte buffer[16];
  EXPECT_EQ(put_varint(buffer, 300) - buffer, 2);
  EXPECT_EQ(buffer[0], std::byte(0xac));
  EXPECT_EQ(buffer[1], std::byte(0x02));
  EXPECT_EQ(put_varint(buffer, UINT64_MAX) - buffer, 10);
  EXPECT_EQ(Reader({buffer, 10}).varint(), UINT64_MAX);
}

TEST(Wire, ZigzagRoundTrips) {
  for (int64_t v : {int64_t(0), int64_t(-1), int64_t(1), INT64_MIN, INT64_MAX}) EXPECT_EQ(unzigzag(zigzag(v)), v);
  EXPECT_EQ(zigzag(-1), 1u);
}

TEST(Wire, OverlongAndTruncatedInputFails) {
  for (const std::vector<uint8_t>& bad : std::vector<std::vector<uint8_t>>{
           {0x80},                                                              // unfinished varint
           {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},        // more than 64 bits
           {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00},  // eleven bytes
       }) {
    Reader reader(bytes(bad));
    reader.varint();
    EXPECT_TRUE(reader.failed());
    EXPECT_EQ(reader.next(), 0u);
  }
  const std::vector<uint8_t> length{0x0a, 0x05, 1, 2};
  Reader reader(bytes(length));
  EXPECT_EQ(reader.next(), tag(1, kLength));
  EXPECT_TRUE(reader.bytes().empty());
  EXPECT_TRUE(reader.failed());
  const std::vector<uint8_t> wide{0x80, 0x80, 0x80, 0x80, 0x10};
  Reader narrow(bytes(wide));
  narrow.varint32();
  EXPECT_TRUE(narrow.failed());
}

TEST(Wire, ReplyHeadIsSplitOff) {
  std::byte buffer[64];
  std::byte* p = put_reply_head(buffer, {700, 12345678901});
  p = put_u64<3>(p, 9);
  ReplyHead head;
  std::span<const std::byte> outs;
  ASSERT_TRUE(read_reply_head({buffer, size_t(p - buffer)}, head, outs));
  EXPECT_EQ(head.result, 700u);
  EXPECT_EQ(head.watermark, 12345678901u);
  EXPECT_EQ(outs.size(), 2u);
  head = {};
  ASSERT_TRUE(read_reply_head({buffer, 0}, head, outs));
  EXPECT_EQ(head.result, 0u);
  EXPECT_TRUE(outs.empty());
}

}  // namespace
}  // namespace bf::wire
