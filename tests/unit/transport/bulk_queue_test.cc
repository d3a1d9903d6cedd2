#include "transport/bulk_queue.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <future>
#include <set>

#include "transport/tcp_wire.h"

namespace bf::transport {
namespace {

constexpr size_t kBlock = limits::kBulkBlockBytes;

// `sent` results in call order.
struct Results {
  std::vector<StatusCode> codes;
  SendQueue::Sent add() {
    return [this](const Status& status) { codes.push_back(status.code()); };
  }
};

const Status kGone{StatusCode::kUnavailable, "gone"};

TEST(SendQueue, CutsAndNumbersInSendOrder) {
  SendQueue queue(100);
  Results results;
  std::vector<std::byte> data(5 * kBlock);
  EXPECT_EQ(queue.push(7, data.data(), 4 * kBlock + 1, results.add()), 5u);
  EXPECT_EQ(queue.push(8, data.data(), kBlock / 16, results.add()), 6u);
  std::vector<SendQueue::Job> jobs;
  for (int i = 0; i < 6; i++) jobs.push_back(*queue.take());
  EXPECT_EQ(jobs[0].block.bytes, kBlock);
  EXPECT_EQ(jobs[4].block.bytes, 1u);
  EXPECT_EQ(jobs[4].block.offset, 4 * kBlock);
  EXPECT_EQ(jobs[4].data, data.data() + 4 * kBlock);
  EXPECT_EQ(jobs[5].block.transfer, 8u);
  for (uint64_t i = 0; i < 6; i++) EXPECT_EQ(jobs[i].block.sequence, i);

  for (int i : {2, 0, 4, 3, 5}) queue.finish(jobs[size_t(i)]);
  queue.announce(5);
  EXPECT_TRUE(queue.take()->is_credit);  // runs what is due on the way
  EXPECT_EQ(results.codes.size(), 1u);   // transfer 8; block 1 of transfer 7 is still under way
  queue.finish(jobs[1]);
  queue.announce(6);
  EXPECT_EQ(queue.take()->block.sequence, 6u);
  EXPECT_EQ(results.codes, (std::vector{StatusCode::kOk, StatusCode::kOk}));
}

TEST(SendQueue, OthersHelpOnlyWithMuch) {
  SendQueue queue(100);
  Results results;
  std::vector<std::byte> data(4 * kBlock);
  queue.push(1, data.data(), 3 * kBlock, results.add());
  EXPECT_EQ(queue.take(kSteadySenders)->block.sequence, 0u);
  EXPECT_EQ(queue.take(kSteadySenders)->block.sequence, 1u);
  auto helper = std::async(std::launch::async, [&] { return queue.take(kSteadySenders); });
  EXPECT_EQ(helper.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  EXPECT_EQ(queue.take()->block.sequence, 2u);
  queue.push(2, data.data(), kBlock, results.add());
  EXPECT_EQ(helper.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  queue.push(3, data.data(), data.size(), results.add());
  EXPECT_EQ(helper.get()->block.sequence, 3u);
  while (queue.take()->block.transfer != 3) {
  }
  for (int i = 1; i < 4; i++) EXPECT_EQ(queue.take()->block.transfer, 3u);
  helper = std::async(std::launch::async, [&] { return queue.take(kSteadySenders); });
  queue.stop();
  EXPECT_FALSE(helper.get());
}

TEST(SendQueue, CutsSmallTransfersForSteadySenders) {
  SendQueue queue(100);
  Results results;
  std::vector<std::byte> data(kBlock + 1);
  EXPECT_EQ(queue.push(1, data.data(), kBlock, results.add()), kSteadySenders);
  size_t bytes = 0;
  for (uint32_t i = 0; i < kSteadySenders; i++) bytes += queue.take()->block.bytes;
  EXPECT_EQ(bytes, kBlock);
  EXPECT_EQ(queue.push(2, data.data(), 1, results.add()), kSteadySenders + 1);
  EXPECT_EQ(queue.take()->block.bytes, 1u);
  queue.fail(kGone);
}

TEST(SendQueue, KeepsTheWindow) {
  SendQueue queue(2);
  Results results;
  std::vector<std::byte> data(4 * kBlock);
  queue.push(1, data.data(), data.size(), results.add());
  EXPECT_FALSE(queue.credit(1)) << "released before anything was sent";
  EXPECT_EQ(queue.take()->block.sequence, 0u);
  EXPECT_EQ(queue.take()->block.sequence, 1u);
  EXPECT_FALSE(queue.credit(3));
  // The window is closed: only the announcement comes out.
  queue.announce(9);
  EXPECT_TRUE(queue.take()->is_credit);
  EXPECT_TRUE(queue.credit(1));
  EXPECT_EQ(queue.take()->block.sequence, 2u);
  EXPECT_TRUE(queue.credit(3));
  EXPECT_TRUE(queue.credit(1)) << "a credit that another one overtook";
  EXPECT_EQ(queue.take()->block.sequence, 3u);
}

TEST(SendQueue, AFailureEndsEverythingOnce) {
  SendQueue queue(100);
  Results results;
  std::vector<std::byte> data(2 * kBlock);
  queue.push(1, data.data(), data.size(), results.add());
  queue.push(2, data.data(), data.size(), results.add());
  auto job = *queue.take();
  queue.fail(kGone);
  queue.fail(Status(StatusCode::kInternal, "later"));
  queue.push(3, data.data(), data.size(), results.add());
  queue.stop();
  EXPECT_FALSE(queue.take());
  EXPECT_EQ(results.codes.size(), 2u) << "a sender thread still holds a block of transfer 1";
  queue.finish(job);
  EXPECT_FALSE(queue.take());
  queue.push(4, data.data(), data.size(), results.add());
  EXPECT_EQ(results.codes, std::vector(4, StatusCode::kUnavailable));
}

Block block(uint64_t sequence, uint32_t bytes = 1) { return {sequence, 1, 0, bytes}; }

TEST(ReceiveWindow, AdmitsEachBlockOnceInsideTheWindow) {
  ReceiveWindow window(4);
  EXPECT_FALSE(window.admit(block(0, 0)));
  EXPECT_FALSE(window.admit(block(0, kBlock + 1)));
  EXPECT_FALSE(window.admit(block(4)));
  EXPECT_FALSE(window.admit(block(UINT64_MAX)));
  for (uint64_t sequence : {3, 1, 0, 2}) EXPECT_TRUE(window.admit(block(sequence, kBlock)));
  for (uint64_t sequence : {3, 1, 0, 2}) EXPECT_FALSE(window.admit(block(sequence)));
  EXPECT_TRUE(window.release(block(2)));
  EXPECT_TRUE(window.release(block(1)));
  EXPECT_EQ(window.released(), 0u);
  EXPECT_FALSE(window.admit(block(4)));
  EXPECT_TRUE(window.release(block(0)));
  EXPECT_EQ(window.released(), 3u);
  for (uint64_t sequence : {6, 4, 5}) EXPECT_TRUE(window.admit(block(sequence)));
  EXPECT_FALSE(window.admit(block(7)));
  EXPECT_FALSE(window.admit(block(2)));
}

TEST(ReceiveWindow, ReleasesOnlyWhatIsHeld) {
  ReceiveWindow window(4);
  EXPECT_FALSE(window.release(block(0)));
  EXPECT_TRUE(window.admit(block(1)));
  EXPECT_TRUE(window.release(block(1)));
  EXPECT_FALSE(window.release(block(1)));
  EXPECT_FALSE(window.release(block(5)));
  EXPECT_EQ(window.released(), 0u);
}

TEST(ReceiveWindow, TheSlotThatWasFreeLastIsUsedFirst) {
  ReceiveWindow window(8);
  const auto block = [](uint64_t sequence) { return Block{sequence, 1, 0, 100}; };
  std::set<uint32_t> distinct;
  for (uint64_t i = 0; i < 8; i++) {
    ASSERT_TRUE(window.admit(block(i)));
    distinct.insert(window.last_freed_slot(block(i)));
  }
  EXPECT_EQ(distinct.size(), 8u);
  // One after the other takes one slot.
  for (uint64_t i = 0; i < 8; i++) ASSERT_TRUE(window.release(block(i)));
  for (uint64_t i = 8, first = 0; i < 30; i++) {
    ASSERT_TRUE(window.admit(block(i)));
    if (i == 8) first = window.last_freed_slot(block(i));
    EXPECT_EQ(window.last_freed_slot(block(i)), first);
    ASSERT_TRUE(window.release(block(i)));
  }
}

TEST(ReceiveWindow, CreditsComeSeldomButInTime) {
  ReceiveWindow window(64);
  int credits = 0;
  for (uint64_t i = 0; i < 640; i++) {
    EXPECT_TRUE(window.admit(block(i)));
    EXPECT_TRUE(window.release(block(i)));
    credits += window.due_credit().has_value();
  }
  EXPECT_EQ(credits, 80);
  // The sender has used the whole window: it may wait for this very block.
  for (uint64_t i = 640; i < 704; i++) EXPECT_TRUE(window.admit(block(i)));
  EXPECT_FALSE(window.due_credit());
  EXPECT_TRUE(window.release(block(640)));
  EXPECT_EQ(window.due_credit(), 641u);
  EXPECT_FALSE(window.due_credit());
}

TEST(TcpWire, GoldenBytes) {
  const unsigned char expected[32] = {1, 2, 0,  0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
                                      0, 0, 16, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0};
  TcpHeader header = tcp_block_header({0x201, 3, 0x100000, 5});
  EXPECT_EQ(memcmp(&header, expected, 32), 0);
  const unsigned char credit[32] = {9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0};
  header = tcp_credit_header(9);
  EXPECT_EQ(memcmp(&header, credit, 32), 0);
}

}  // namespace
}  // namespace bf::transport
