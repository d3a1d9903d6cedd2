#include "client/landing.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

namespace bf::client {
namespace {

// A transport that only knows its ring and remembers what was released.
class FakeBulk final : public transport::Bulk {
 public:
  void start(transport::BulkSink&) override {}
  uint64_t send(uint64_t, const void*, size_t, std::function<void(const Status&)>) override { return 0; }
  void release(const transport::Block& block) override { released.push_back(block.sequence); }
  std::span<std::byte> ring() override { return memory; }
  void stop() noexcept override {}

  std::vector<std::byte> memory = std::vector<std::byte>(4096);
  std::vector<uint64_t> released;
};

struct LandingTest : testing::Test {
  LandingTest() { landing.attach(bulk); }
  FakeBulk bulk;
  Landing landing{[](const Status&) {}};
};

TEST_F(LandingTest, PlacesDenseTicketsDirectly) {
  std::vector<std::byte> memory(3000);
  uint64_t ticket = landing.issue(HostLayout::dense(memory.data(), memory.size()));
  transport::Block block{0, ticket, 1000, 2000};
  EXPECT_EQ(landing.place(block), memory.data() + 1000);
  EXPECT_TRUE(landing.landed(block, memory.data() + 1000));
  EXPECT_TRUE(landing.overlaps(memory.data() + 2999, 1)) << "1000 bytes are still missing";
  transport::Block rest{1, ticket, 0, 1000};
  EXPECT_TRUE(landing.landed(rest, landing.place(rest)));
  EXPECT_FALSE(landing.overlaps(memory.data(), memory.size()));
  EXPECT_TRUE(bulk.released.empty());
  EXPECT_TRUE(landing.wait(2, 0));
}

TEST_F(LandingTest, ScattersRowsOutOfTheRing) {
  std::vector<std::byte> memory(100, std::byte{0xee});
  HostLayout layout;
  layout.base = memory.data();
  layout.row_bytes = 3;
  layout.rows = 2;
  layout.slices = 2;
  layout.pitch = 10;
  layout.slice_pitch = 50;
  EXPECT_EQ(layout.bytes(), 12u);
  EXPECT_EQ(layout.extent(), 63u);
  uint64_t ticket = landing.issue(layout);
  for (int i = 0; i < 12; ++i) bulk.memory[size_t(i)] = std::byte(i);
  transport::Block first{0, ticket, 0, 5}, second{1, ticket, 5, 7};
  EXPECT_EQ(landing.place(first), nullptr);
  EXPECT_TRUE(landing.landed(second, bulk.memory.data() + 5));
  EXPECT_TRUE(landing.landed(first, bulk.memory.data()));
  const int at[] = {0, 1, 2, 10, 11, 12, 50, 51, 52, 60, 61, 62};
  for (int i = 0; i < 12; ++i) EXPECT_EQ(memory[size_t(at[i])], std::byte(i));
  EXPECT_EQ(memory[3], std::byte{0xee});
  EXPECT_EQ(memory[63], std::byte{0xee});
  EXPECT_EQ(bulk.released, (std::vector<uint64_t>{1, 0}));
  std::vector<std::byte> gathered(12);
  layout.gather(0, gathered.data(), 12);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(gathered[size_t(i)], std::byte(i));
}

std::span<const std::byte> bytes_of(const char* text) { return std::as_bytes(std::span(text, std::strlen(text))); }

// Two copies with a common destination, the second behind the first: its bytes come last, however they travel.
struct LandingOrder : LandingTest {
  void fill(size_t at, const char* text) { std::memcpy(bulk.memory.data() + at, text, std::strlen(text)); }
  std::string text() const { return {memory, sizeof memory}; }
  char memory[9] = {'.', '.', '.', '.', '.', '.', '.', '.', '.'};
  uint64_t older = landing.issue(HostLayout::dense(memory, 6));
  uint64_t newer = landing.issue(HostLayout::dense(memory + 3, 6));
};

TEST_F(LandingOrder, BlockBehindBlock) {
  fill(0, "BBBBBB");
  EXPECT_EQ(landing.place({1, newer, 0, 6}), nullptr) << "not while older bytes may still come";
  EXPECT_TRUE(landing.landed({1, newer, 0, 6}, bulk.memory.data()));
  EXPECT_EQ(text(), ".........");
  EXPECT_TRUE(bulk.released.empty());
  auto* place = landing.place({0, older, 0, 6});
  ASSERT_EQ(place, reinterpret_cast<std::byte*>(memory));
  std::memcpy(place, "AAAAAA", 6);
  EXPECT_TRUE(landing.landed({0, older, 0, 6}, place));
  EXPECT_EQ(text(), "AAABBBBBB");
  EXPECT_EQ(bulk.released, (std::vector<uint64_t>{1}));
  EXPECT_TRUE(landing.wait(2, 0));
  EXPECT_FALSE(landing.overlaps(memory, sizeof memory));
}

TEST_F(LandingOrder, FrameBehindBlock) {
  EXPECT_TRUE(landing.data(newer, 0, bytes_of("BBBBBB"), 1));
  EXPECT_EQ(text(), ".........");
  fill(0, "AAAAAA");
  EXPECT_TRUE(landing.landed({0, older, 0, 6}, bulk.memory.data()));
  EXPECT_EQ(text(), "AAABBBBBB");
  EXPECT_TRUE(landing.wait(1, 1));
}

TEST_F(LandingOrder, BlockBehindFrame) {
  fill(0, "BBBBBB");
  EXPECT_TRUE(landing.landed({0, newer, 0, 6}, bulk.memory.data()));
  EXPECT_EQ(text(), ".........");
  EXPECT_TRUE(landing.data(older, 0, bytes_of("AAAAAA"), 0));
  EXPECT_EQ(text(), "AAABBBBBB");
  EXPECT_TRUE(landing.wait(1, 1));
}

// The older copy failed, or comes later on another stream: nobody waits for it once all that was sent before is there.
TEST_F(LandingOrder, NobodyWaitsForWhatWasNotSent) {
  fill(0, "BBBBBB");
  EXPECT_TRUE(landing.landed({0, newer, 0, 6}, bulk.memory.data()));
  EXPECT_TRUE(landing.wait(1, 0));
  EXPECT_EQ(text(), "...BBBBBB");
  EXPECT_TRUE(landing.data(older, 0, bytes_of("AAAAAA"), 1));
  EXPECT_EQ(text(), "AAAAAABBB");
}

TEST_F(LandingOrder, FramesWaitForTheBlocksBeforeThemOnly) {
  char other[3];
  uint64_t elsewhere = landing.issue(HostLayout::dense(other, 3));
  EXPECT_TRUE(landing.data(newer, 0, bytes_of("BBBBBB"), 1));
  EXPECT_EQ(text(), ".........");
  EXPECT_TRUE(landing.landed({0, elsewhere, 0, 3}, landing.place({0, elsewhere, 0, 3})));
  EXPECT_EQ(text(), "...BBBBBB");
}

TEST_F(LandingOrder, AForgottenTicketHoldsNothingBack) {
  fill(0, "BBBBBB");
  EXPECT_TRUE(landing.landed({0, newer, 0, 6}, bulk.memory.data()));
  landing.forget(older);
  EXPECT_EQ(text(), "...BBBBBB");
  EXPECT_TRUE(landing.wait(1, 0));
}

TEST_F(LandingTest, RefusesWhatWasNeverAgreed) {
  std::vector<std::byte> memory(100);
  uint64_t ticket = landing.issue(HostLayout::dense(memory.data(), memory.size()));
  EXPECT_EQ(landing.place({0, ticket, 90, 11}), transport::kReject);
  EXPECT_EQ(landing.place({0, ticket, ~uint64_t{0}, 11}), transport::kReject);
  EXPECT_FALSE(landing.landed({0, ticket, 90, 11}, bulk.memory.data()));
  EXPECT_FALSE(landing.landed({0, ticket + 1, 0, 1}, bulk.memory.data()));
  EXPECT_FALSE(landing.landed({0, 0, 0, 1}, bulk.memory.data()));
  EXPECT_FALSE(landing.data(ticket + 1, 0, {bulk.memory.data(), 1}, 0));
  EXPECT_FALSE(landing.data(ticket, 100, {bulk.memory.data(), 1}, 0));
}

TEST_F(LandingTest, DropsBytesOfForgottenTickets) {
  std::vector<std::byte> memory(100, std::byte{1});
  uint64_t ticket = landing.issue(HostLayout::dense(memory.data(), memory.size()));
  landing.forget(ticket);
  transport::Block block{0, ticket, 0, 100};
  EXPECT_EQ(landing.place(block), nullptr);
  EXPECT_TRUE(landing.landed(block, bulk.memory.data()));
  EXPECT_EQ(memory[0], std::byte{1});
  EXPECT_EQ(bulk.released, std::vector<uint64_t>{0});
}

TEST_F(LandingTest, WaitsForTheWatermarkAndDataFrames) {
  std::vector<std::byte> memory(20);
  uint64_t ticket = landing.issue(HostLayout::dense(memory.data(), memory.size()));
  std::atomic<bool> done{false};
  std::thread waiter([&] {
    EXPECT_TRUE(landing.wait(2, 1));
    done = true;
  });
  transport::Block second{1, ticket, 5, 5}, first{0, ticket, 0, 5};
  EXPECT_TRUE(landing.landed(second, landing.place(second)));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(done) << "block 0 has not landed";
  EXPECT_TRUE(landing.landed(first, landing.place(first)));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(done) << "no Data frame came";
  std::byte ten[10] = {};
  EXPECT_TRUE(landing.data(ticket, 10, ten, 0));
  waiter.join();
}

TEST_F(LandingTest, StopWakesWaiters) {
  std::thread waiter([&] { EXPECT_FALSE(landing.wait(1, 0)); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  landing.stop();
  waiter.join();
}

}  // namespace
}  // namespace bf::client
