#include "transport/shm_segment.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace bf::transport::shm {
namespace {

constexpr size_t kBytes = 1024;

struct Ring {
  std::unique_ptr<RingControl> control = std::make_unique<RingControl>();
  std::vector<std::byte> bytes = std::vector<std::byte>(kBytes);
  RingWriter writer{*control, bytes};
  RingReader reader{*control, bytes};
};

TEST(ShmRing, WrapsAroundWithoutLosingBytes) {
  Ring ring;
  std::mt19937 random(1);
  unsigned char next_in = 0, next_out = 0;
  size_t total = 0;
  while (total < 200'000) {
    size_t room = *ring.writer.room(kBytes);
    std::vector<std::byte> piece(random() % (room + 1));
    for (auto& byte : piece) byte = std::byte(next_in++);
    ring.writer.put(piece.data(), piece.size());
    ring.writer.publish();
    EXPECT_GE(*ring.reader.available(), piece.size());
    piece.resize(random() % (*ring.reader.available() + 1));
    ring.reader.take(piece.data(), piece.size());
    for (auto byte : piece) ASSERT_EQ(byte, std::byte(next_out++));
    total += piece.size();
  }
}

TEST(ShmRing, NothingIsSeenBeforeItIsPublished) {
  Ring ring;
  std::byte byte{};
  ring.writer.put(&byte, 1);
  EXPECT_EQ(ring.reader.available(), 0u);
  ring.writer.publish();
  EXPECT_EQ(ring.reader.available(), 1u);
}

TEST(ShmRing, FullIsFull) {
  Ring ring;
  std::vector<std::byte> all(kBytes);
  ring.writer.put(all.data(), kBytes);
  ring.writer.publish();
  EXPECT_EQ(ring.writer.room(1), 0u);
  EXPECT_EQ(ring.reader.available(), kBytes);
  ring.reader.take(all.data(), 10);
  EXPECT_EQ(ring.writer.room(1), 10u);
}

TEST(ShmRing, PositionsThatCannotBeTrueAreRefused) {
  for (uint64_t head : {uint64_t{kBytes + 1}, UINT64_MAX, uint64_t{1} << 63}) {
    Ring ring;
    ring.control->head = head;
    EXPECT_FALSE(ring.reader.available()) << head;
  }
  for (uint64_t tail : {uint64_t{11}, UINT64_MAX, uint64_t{1} << 63}) {
    Ring ring;
    std::vector<std::byte> some(10);
    ring.writer.put(some.data(), some.size());
    ring.control->tail = tail;
    EXPECT_FALSE(ring.writer.room(kBytes)) << tail;
  }
  Ring ring;
  std::vector<std::byte> some(10);
  ring.writer.put(some.data(), some.size());
  ring.writer.publish();
  ring.reader.take(some.data(), 10);
  EXPECT_EQ(ring.writer.room(kBytes), kBytes);
  ring.writer.put(some.data(), 1);
  ring.control->tail = 9;  // backwards
  EXPECT_FALSE(ring.writer.room(kBytes));
}

TEST(ShmSlot, HereNotYetOrBroken) {
  auto control = std::make_unique<BulkControl>();
  Block block;
  EXPECT_EQ(read_slot(*control, 3, block), Arrival::kNotYet);
  publish_slot(*control, {3, 7, 8, 9});
  EXPECT_EQ(read_slot(*control, 3, block), Arrival::kHere);
  EXPECT_EQ(block.sequence, 3u);
  EXPECT_EQ(block.transfer, 7u);
  EXPECT_EQ(block.offset, 8u);
  EXPECT_EQ(block.bytes, 9u);
  EXPECT_EQ(read_slot(*control, 3 + limits::kBulkBlocks, block), Arrival::kNotYet);
  EXPECT_EQ(read_slot(*control, 3 + 2 * limits::kBulkBlocks, block), Arrival::kBroken);
  publish_slot(*control, {3, 7, 8, uint32_t(limits::kBulkBlockBytes) + 1});
  EXPECT_EQ(read_slot(*control, 3, block), Arrival::kBroken);
  publish_slot(*control, {3, 7, 8, 0});
  EXPECT_EQ(read_slot(*control, 3, block), Arrival::kBroken);
}

// Each side sleeps whenever it can; a lost wake-up would show as half a second per step.
TEST(ShmBell, NoWakeUpIsLost) {
  Ring ring;
  constexpr int kSteps = 20'000;
  auto before = std::chrono::steady_clock::now();
  std::thread consumer([&] {
    for (int i = 0; i < kSteps; i++) {
      wait_on_bell(ring.control->data, std::chrono::nanoseconds(0), [&] { return *ring.reader.available() > 0; });
      std::byte byte;
      ring.reader.take(&byte, 1);
    }
  });
  for (int i = 0; i < kSteps; i++) {
    std::byte byte{};
    ring.writer.put(&byte, 1);
    ring.writer.publish();
    wait_on_bell(ring.control->space, std::chrono::nanoseconds(0), [&] { return *ring.writer.room(kBytes) == kBytes; });
  }
  consumer.join();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(20));
}

}  // namespace
}  // namespace bf::transport::shm
