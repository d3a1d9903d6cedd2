// The total order: random lanes, posts and calls, checked against the contract of docs/design.md, "Order and threads".
#include "server/worker/order.h"
#include "server/worker/reader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

namespace bf::server {
namespace {

constexpr uint16_t kPostOpcode = 300, kCallOpcode = 301;

// Frames without bytes; every one uses the same block.
class Source {
 public:
  Source() : block_(pool_.take(1)) {}
  ~Source() { block_->release(BlockPool::kBias - made_); }
  Frame make(uint32_t lane, uint16_t opcode) {
    ++made_;
    Frame frame;
    frame.header.lane = lane;
    frame.header.opcode = opcode;
    frame.header.flags = opcode == kPostOpcode ? kPost : 0;
    frame.block = block_;
    return frame;
  }

 private:
  BlockPool pool_;
  ReceiveBlock* block_;
  uint32_t made_ = 0;
};

// Records when frames start and are issued. Frames are numbered by the order in which they start, which the contract
// says is the order in which they were pushed.
class Recorder : public Order::Runner {
 public:
  explicit Recorder(std::vector<std::pair<uint32_t, uint16_t>> expected) : expected_(std::move(expected)) {}

  void run(const Frame& frame, Turn& turn) override {
    const uint64_t number = started_.fetch_add(1);
    if (running_posts_.load() != 0) ++broken_;  // a post was running: not all earlier frames were issued
    if (number >= expected_.size() || expected_[number] != std::pair(frame.header.lane, frame.header.opcode)) ++broken_;
    {
      std::lock_guard guard(mutex_);
      auto [entry, fresh] = twins_.try_emplace(frame.header.lane, std::this_thread::get_id());
      if (!fresh && entry->second != std::this_thread::get_id()) ++broken_;
    }
    if (frame.header.opcode == kPostOpcode) {
      ++running_posts_;
      if (number % 7 == 0) std::this_thread::yield();
      --running_posts_;
    } else {
      turn.pass();
      if (number % 5 == 0) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    ++finished_;
  }
  void no_thread(uint32_t) override { ++broken_; }

  std::atomic<uint64_t> started_{0}, finished_{0}, broken_{0};

 private:
  const std::vector<std::pair<uint32_t, uint16_t>> expected_;
  std::atomic<int> running_posts_{0};
  std::mutex mutex_;
  std::map<uint32_t, std::thread::id> twins_;
};

void wait_until(const std::function<bool()>& so) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!so() && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void wait_for(const std::atomic<uint64_t>& counter, uint64_t value) {
  wait_until([&] { return counter.load() >= value; });
}

struct Shape {
  uint32_t lanes;
  uint32_t call_percent;
  uint32_t batch;
  uint32_t spin_us;
};

std::vector<std::pair<uint32_t, uint16_t>> random_frames(const Shape& shape, uint64_t count, std::mt19937& random) {
  std::vector<std::pair<uint32_t, uint16_t>> frames;
  for (uint64_t i = 0; i < count; ++i)
    frames.emplace_back(random() % shape.lanes, random() % 100 < shape.call_percent ? kCallOpcode : kPostOpcode);
  return frames;
}

class OrderShapes : public testing::TestWithParam<Shape> {};

TEST_P(OrderShapes, FramesStartInOrderAndPostsRunAlone) {
  const Shape shape = GetParam();
  constexpr uint64_t kCount = 20'000;
  std::mt19937 random(shape.lanes * 100 + shape.call_percent);
  const auto frames = random_frames(shape, kCount, random);
  Source source;
  Recorder recorder(frames);
  {
    Order order(recorder, shape.spin_us);
    for (uint64_t i = 0; i < kCount; ++i) {
      ASSERT_TRUE(order.push(source.make(frames[i].first, frames[i].second)));
      if (random() % shape.batch == 0) order.publish();
      if (random() % 1000 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    }
    order.publish();
    wait_for(recorder.finished_, kCount);
    wait_until([&] { return order.issued() >= kCount; });  // a post is issued once its handler has returned
    EXPECT_EQ(order.issued(), kCount);
  }
  EXPECT_EQ(recorder.finished_.load(), kCount);
  EXPECT_EQ(recorder.broken_.load(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Random, OrderShapes,
                         testing::Values(Shape{1, 0, 1, 0}, Shape{1, 30, 8, 20}, Shape{2, 10, 1, 0},
                                         Shape{2, 50, 16, 20}, Shape{8, 20, 4, 0}, Shape{32, 5, 64, 5}));

// The same frames over a link: twins that have nothing to do look for them, the reader's own thread serves those who are busy.
class ReadingRecorder final : public Recorder {
 public:
  using Recorder::Recorder;
  void run(const Frame& frame, Turn& turn) override {
    if (frame.header.payload_bytes > 0 && frame.payload()[frame.header.payload_bytes - 1] != std::byte(frame.header.lane)) ++broken_;
    Recorder::run(frame, turn);
  }
  void idle(const std::function<bool()>& waits, transport::LookOut time) override {
    const uint64_t before = reader->bytes();
    reader->look(waits, time);
    if (reader->bytes() != before) ++looked_;
  }
  Reader* reader = nullptr;
  std::atomic<uint64_t> looked_{0};
};

class ReaderShapes : public testing::TestWithParam<Shape> {};

TEST_P(ReaderShapes, FramesStartInOrderWhoeverReadsThem) {
  const Shape shape = GetParam();
  constexpr uint64_t kCount = 5'000;
  std::mt19937 random(shape.lanes * 100 + shape.call_percent);
  const auto frames = random_frames(shape, kCount, random);
  auto pair = transport::make_loopback();
  BlockPool pool;
  ReadingRecorder recorder(frames);
  Order order(recorder, shape.spin_us);
  std::atomic<int> ends{0};
  std::optional<Reader> reader;
  reader.emplace(pair.worker->calls(), pool, order, shape.spin_us, [&](const Status& why) {
    EXPECT_EQ(why.code(), StatusCode::kUnavailable) << why.message();
    ++ends;
    reader->stop();
    order.stop();
  });
  recorder.reader = &*reader;
  std::thread own([&] { reader->run(); });
  std::vector<std::byte> bytes;
  for (uint64_t i = 0; i < kCount; ++i) {
    const auto [lane, opcode] = frames[i];
    const FrameHeader header{0, i % 100 == 0 ? 300'000u : uint32_t(i % 50), opcode, uint16_t(opcode == kPostOpcode ? kPost : 0), lane};
    bytes.resize(sizeof header, {});
    std::memcpy(bytes.data(), &header, sizeof header);
    bytes.resize(sizeof header + header.payload_bytes, std::byte(lane));
    iovec part{bytes.data(), bytes.size()};
    ASSERT_TRUE(pair.client->calls().send({&part, 1}).ok());
    bytes.clear();
    if (random() % shape.batch == 0) wait_for(recorder.finished_, i + 1);
  }
  wait_for(recorder.finished_, kCount);
  EXPECT_EQ(recorder.finished_.load(), kCount);
  EXPECT_EQ(recorder.broken_.load(), 0u);
  EXPECT_EQ(recorder.looked_ > 0, shape.spin_us > 0);
  pair.client->shut();
  own.join();
  EXPECT_EQ(ends, 1);
  order.join();
}

INSTANTIATE_TEST_SUITE_P(Random, ReaderShapes,
                         testing::Values(Shape{1, 50, 4, 0}, Shape{1, 50, 2, 500}, Shape{2, 50, 4, 500}, Shape{8, 20, 50, 200}));

TEST(Reader, ATwinMayLookWhileItsThreadSleeps) {
  auto pair = transport::make_loopback();
  BlockPool pool;
  Recorder recorder({});
  Order order(recorder, 0);
  Reader reader(pair.worker->calls(), pool, order, 100, [&](const Status&) { reader.stop(); });
  std::thread own([&] { reader.run(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  int asked = 0;
  wait_until([&] {
    reader.look([&] { return ++asked < 10; }, std::chrono::seconds(10));
    return asked == 10;
  });
  EXPECT_EQ(asked, 10);
  pair.client->shut();
  own.join();
}

// Who keeps the turn sees who waits for it: a frame that has been published, and only while the turn is its own.
TEST(Order, TheFrameThatWaitsForTheTurnIsSeen) {
  struct Looking : Order::Runner {
    std::atomic<uint64_t> alone{0}, followed{0}, passed{0};
    std::atomic<int> runs{0};
    void run(const Frame&, Turn& turn) override {
      if (runs++ > 0) return;
      alone += turn.next() == nullptr;
      const Frame* next;
      while (!(next = turn.next())) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      followed += next->header.lane == 2 && next->header.opcode == kCallOpcode;
      turn.pass();
      passed += turn.next() == nullptr;
    }
    void no_thread(uint32_t) override {}
  } runner;
  Source source;
  Order order(runner, 0);
  order.push(source.make(1, kPostOpcode));
  order.publish();
  wait_for(runner.alone, 1);
  order.push(source.make(2, kCallOpcode));
  order.publish();
  wait_for(runner.passed, 1);
  EXPECT_EQ(runner.alone, 1u);
  EXPECT_EQ(runner.followed, 1u);
  EXPECT_EQ(runner.passed, 1u);
}

// A call that blocks in the driver delays nobody.
TEST(Order, BlockedCallHoldsUpNoOtherLane) {
  struct Blocking : Order::Runner {
    std::atomic<bool> go{false}, blocked{false};
    std::atomic<uint64_t> posts{0};
    void run(const Frame& frame, Turn& turn) override {
      if (frame.header.opcode == kPostOpcode) {
        ++posts;
        return;
      }
      blocked = true;
      turn.pass();  // from here on the posts may run
      while (!go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    void no_thread(uint32_t) override {}
  } runner;
  Source source;
  Order order(runner, 0);
  order.push(source.make(1, kCallOpcode));
  for (int i = 0; i < 100; ++i) order.push(source.make(2, kPostOpcode));
  order.publish();
  wait_for(runner.posts, 100);
  EXPECT_EQ(runner.posts.load(), 100u);
  EXPECT_TRUE(runner.blocked.load());
  runner.go = true;
}

// stop() from within a frame: nothing further starts, and the blocks of what was pushed are given back.
TEST(Order, StopStartsNothingMore) {
  struct Stopping : Order::Runner {
    Order* order = nullptr;
    std::atomic<uint64_t> ran{0};
    void run(const Frame&, Turn&) override {
      if (++ran == 10) order->stop();
    }
    void no_thread(uint32_t) override {}
  } runner;
  Source source;
  Order order(runner, 0);
  runner.order = &order;
  for (int i = 0; i < 1000; ++i) order.push(source.make(uint32_t(i % 3), kPostOpcode));
  order.publish();
  order.join();
  EXPECT_EQ(runner.ran.load(), 10u);
  EXPECT_FALSE(order.push(source.make(0, kPostOpcode)));
}

TEST(Order, CountsEveryPostOfALongRun) {
  struct Counting : Order::Runner {
    std::atomic<uint64_t> ran{0};
    void run(const Frame&, Turn&) override {
      ran.store(ran.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    void no_thread(uint32_t) override {}
  } runner;
  constexpr uint64_t kCount = 2'000'000;
  Source source;
  Order order(runner, 0);
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t i = 0; i < kCount; ++i) {
    order.push(source.make(0, kPostOpcode));
    if (i % 64 == 63) order.publish();
  }
  order.publish();
  wait_for(runner.ran, kCount);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_EQ(runner.ran.load(), kCount);
  printf("%.1f M posts/s\n", double(kCount) / seconds / 1e6);
}

}  // namespace
}  // namespace bf::server
