#include "server/worker/receive.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace bf::server {
namespace {

// `count` frames of random sizes whose bytes tell their number.
std::vector<std::byte> make_stream(std::mt19937& random, int count, size_t most) {
  std::vector<std::byte> stream;
  for (int i = 0; i < count; ++i) {
    FrameHeader header;
    header.opcode = 300;
    header.lane = uint32_t(i % 7);
    header.body_bytes = uint32_t(random() % 200);
    header.payload_bytes = uint32_t(random() % 10 == 0 ? random() % most : 0);
    const size_t at = stream.size();
    stream.resize(at + sizeof(header) + header.body_bytes + header.payload_bytes, std::byte(i));
    std::memcpy(stream.data() + at, &header, sizeof(header));
  }
  return stream;
}

void split(size_t most_payload, size_t most_read) {
  std::mt19937 random(unsigned(most_payload + most_read));
  constexpr int kFrames = 300;
  const auto stream = make_stream(random, kFrames, most_payload);
  BlockPool pool;
  std::vector<Frame> held;  // some frames outlive the reading
  int seen = 0;
  {
    FrameSplitter splitter(pool);
    for (size_t at = 0; at < stream.size();) {
      const auto space = splitter.space();
      ASSERT_FALSE(space.empty());
      const size_t count = std::min({space.size(), stream.size() - at, 1 + random() % most_read});
      std::memcpy(space.data(), stream.data() + at, count);
      splitter.filled(count);
      at += count;
      for (Frame frame;;) {
        auto whole = splitter.next(frame);
        ASSERT_TRUE(whole.ok());
        if (!*whole) break;
        EXPECT_EQ(frame.header.lane, uint32_t(seen % 7));
        for (const std::byte b : frame.body()) ASSERT_EQ(b, std::byte(seen));
        for (const std::byte b : frame.payload()) ASSERT_EQ(b, std::byte(seen));
        ++seen;
        if (random() % 4) {
          frame.block->release(1);
        } else {
          held.push_back(frame);
        }
      }
    }
  }
  EXPECT_EQ(seen, kFrames);
  EXPECT_GT(pool.live_bytes(), 0u);
  for (const Frame& frame : held) frame.block->release(1);
  EXPECT_EQ(pool.live_bytes(), 0u);
}

TEST(FrameSplitter, ByteByByte) { split(100, 1); }
TEST(FrameSplitter, SmallReads) { split(5'000, 333); }
TEST(FrameSplitter, LargeFrames) { split(600'000, 70'000); }
TEST(FrameSplitter, WholeBlocks) { split(100'000, 1 << 20); }

TEST(FrameSplitter, RefusesHeadersOutOfBounds) {
  for (const FrameHeader bad :
       {FrameHeader{limits::kBodyBytes + 1, 0, 300, 0, 0}, FrameHeader{0, limits::kPayloadBytes + 1, 300, 0, 0},
        FrameHeader{0, 0, 300, 0, limits::kLanes}, FrameHeader{0, 0, 0, 0, 0}}) {
    BlockPool pool;
    FrameSplitter splitter(pool);
    std::memcpy(splitter.space().data(), &bad, sizeof(bad));
    splitter.filled(sizeof(bad));
    Frame frame;
    EXPECT_FALSE(splitter.next(frame).ok());
  }
}

}  // namespace
}  // namespace bf::server
