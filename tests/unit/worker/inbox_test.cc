// Blocks that land in the ring, and blocks of parked parts.
#include "server/worker/inbox.h"

#include <gtest/gtest.h>

#include <cstring>

#include "api/driver_api.h"

namespace bf::server {
namespace {

struct Ring final : transport::Bulk {
  std::vector<uint64_t> released;
  void start(transport::BulkSink&) override {}
  uint64_t send(uint64_t, const void*, size_t, std::function<void(const Status&)>) override { return 0; }
  void release(const transport::Block& block) override { released.push_back(block.sequence); }
  std::span<std::byte> ring() override { return {}; }
  void stop() noexcept override {}
};

class InboxTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(fences.start(true)); }
  std::shared_ptr<Inbox::Parked> park(uint64_t offset, size_t bytes) {
    auto parked = std::make_shared<Inbox::Parked>();
    parked->transfer = 7;
    parked->offset = offset;
    parked->bytes = bytes;
    parked->data = memory.data();
    parked->gate = {0, 5};
    inbox.park(parked);
    return parked;
  }
  // A block of 100 bytes.
  static transport::Block block(uint64_t number) { return {number, 7, 100 * number, 100}; }
  bool open() { return fences.done({0, 5}); }

  DriverApi driver{};
  Fences fences{driver};
  Recorder recorder;
  Ring ring;
  Inbox inbox{ring, fences, recorder, 0, [](const Status&) {}};
  std::vector<std::byte> memory = std::vector<std::byte>(300);
  std::vector<std::byte> slot = std::vector<std::byte>(100, std::byte{9});
};

TEST_F(InboxTest, APartIsCompleteWhicheverWayItsBlocksCame) {
  EXPECT_EQ(inbox.place(block(1)), nullptr);
  ASSERT_TRUE(inbox.landed(block(1), slot.data()));  // before it was parked
  EXPECT_EQ(inbox.place(block(2)), nullptr);         // on its way into the ring meanwhile
  const auto parked = park(100, 300);
  EXPECT_EQ(memory[0], std::byte{9});
  EXPECT_EQ(inbox.place(block(4)), nullptr);  // behind the part
  EXPECT_EQ(inbox.place(block(3)), memory.data() + 200);
  ASSERT_TRUE(inbox.landed(block(2), slot.data()));
  EXPECT_EQ(memory[100], std::byte{9});
  EXPECT_FALSE(open());
  ASSERT_TRUE(inbox.landed(block(3), memory.data() + 200));
  EXPECT_TRUE(open());
  EXPECT_TRUE(parked->landed);
  EXPECT_EQ(ring.released, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(inbox.bytes_received(), 300u);
}

TEST_F(InboxTest, TheSameBytesAreNotTakenTwice) {
  const auto parked = park(0, 300);
  EXPECT_EQ(inbox.place(block(0)), memory.data());
  EXPECT_EQ(inbox.place(block(1)), memory.data() + 100);
  EXPECT_EQ(inbox.place(block(0)), memory.data());  // cannot be told from the last one yet, and counts as it
  EXPECT_EQ(inbox.place(block(0)), transport::kReject);
  EXPECT_FALSE(inbox.landed(block(2), slot.data()));
}

TEST_F(InboxTest, WhoLooksOutGivesUpAtOnceToo) {
  Inbox spinning(ring, fences, recorder, 1'000'000, [](const Status&) {});
  Inbox::Landed landed;
  int asked = 0;
  EXPECT_FALSE(spinning.wait(7, 0, landed, [&] { return ++asked == 2; }));
  EXPECT_EQ(asked, 2);
  // Nothing is locked while it is asked.
  EXPECT_TRUE(spinning.wait(7, 0, landed, [&] {
    EXPECT_TRUE(spinning.landed(block(0), slot.data()));
    return false;
  }));
}

TEST_F(InboxTest, WhoWaitsGivesUpWhenHeIsTold) {
  Inbox::Landed landed;
  int asked = 0;
  EXPECT_FALSE(inbox.wait(7, 0, landed, [&] { return ++asked == 3; }));
  EXPECT_EQ(asked, 3);
  ASSERT_TRUE(inbox.landed(block(0), slot.data()));
  EXPECT_TRUE(inbox.wait(7, 0, landed, [] { return true; }));  // what is there is not given up
  EXPECT_EQ(landed.data, slot.data());
}

TEST_F(InboxTest, WhoTakesAnyBlockGetsThoseOfHisTransfer) {
  Inbox::Landed landed;
  auto of_another = block(0);
  of_another.transfer = 8;
  ASSERT_TRUE(inbox.landed(of_another, slot.data()));
  EXPECT_FALSE(inbox.take(7, Inbox::kAnyOffset, landed));
  ASSERT_TRUE(inbox.landed(block(2), slot.data()));
  ASSERT_TRUE(inbox.wait(7, Inbox::kAnyOffset, landed));
  EXPECT_EQ(landed.block.offset, block(2).offset);
  EXPECT_FALSE(inbox.take(7, Inbox::kAnyOffset, landed));
  EXPECT_TRUE(inbox.take(8, Inbox::kAnyOffset, landed));
}

TEST_F(InboxTest, TheEndOpensEveryGate) {
  const auto parked = park(0, 300);
  EXPECT_EQ(inbox.place(block(0)), memory.data());
  inbox.stop();
  EXPECT_TRUE(open());
  EXPECT_TRUE(parked->landed);
  EXPECT_FALSE(inbox.landed(block(0), memory.data()));
  EXPECT_TRUE(park(0, 300)->landed);
}

}  // namespace
}  // namespace bf::server
