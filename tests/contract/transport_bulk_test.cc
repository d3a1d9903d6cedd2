// The contract of Bulk, on every transport.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "tests/contract/link_pair.h"

namespace bf::transport::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
constexpr size_t kBlock = limits::kBulkBlockBytes;

class BulkContract : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (auto why = missing(GetParam()); !why.empty()) GTEST_SKIP() << why;
    pair_ = make_pair(GetParam());
  }
  Pair pair_;
};
INSTANTIATE_TEST_SUITE_P(All, BulkContract, testing::ValuesIn(all_kinds()),
                         [](const auto& info) { return std::string(name_of(info.param)); });

size_t blocks_of(size_t bytes) { return (bytes + kBlock - 1) / kBlock; }

// Takes transfers into buffers of its own: placed, where the transport places and `wants_place` says so, else copied
// from the ring and released at once.
class Receiver {
 public:
  explicit Receiver(Link& link) : bulk_(link.bulk()) {
    sink.on_place = [this, may_place = link.limits().places](const Block& block) -> std::byte* {
      EXPECT_TRUE(may_place);
      return wants_place(block) ? at(block) : nullptr;
    };
    sink.on_landed = [this](const Block& block, std::byte* data) {
      std::byte* to = at(block);
      if (to == kReject) return false;
      if (data == to) {
        placed++;
        return true;
      }
      EXPECT_GE(data, bulk_.ring().data());
      EXPECT_LE(data + block.bytes, bulk_.ring().data() + bulk_.ring().size());
      memcpy(to, data, block.bytes);
      bulk_.release(block);
      return true;
    };
  }

  void expect(uint64_t transfer, size_t bytes) { buffers[transfer].resize(bytes); }
  // After all expect().
  void start() { sink.attach(bulk_); }

  std::map<uint64_t, std::vector<std::byte>> buffers;
  std::function<bool(const Block&)> wants_place = [](const Block& block) { return block.transfer % 2 == 0; };
  std::atomic<size_t> placed{0};
  Sink sink;  // last: stops before the rest goes

 private:
  std::byte* at(const Block& block) {
    auto found = buffers.find(block.transfer);
    if (found == buffers.end() || block.offset + block.bytes > found->second.size()) return kReject;
    return found->second.data() + block.offset;
  }

  Bulk& bulk_;
};

TEST_P(BulkContract, BytesOfAllSizesArrive) {
  std::vector<size_t> sizes = {1, 2, 4095, 65'537, kBlock - 1, kBlock, kBlock + 1, 3 * kBlock, (limits::kBulkBlocks + 2) * kBlock};
  std::mt19937_64 random(5);
  for (int i = 0; i < 30; i++) sizes.push_back(1 + random() % (size_t{1} << (random() % 23)));
  std::vector<std::vector<std::byte>> sources;
  for (size_t i = 0; i < sizes.size(); i++) sources.push_back(random_bytes(sizes[i], i));

  SentCounter sent;
  Sink unused;
  unused.attach(pair_.client->bulk());
  Receiver receiver(*pair_.worker);
  for (size_t i = 0; i < sizes.size(); i++) receiver.expect(i, sizes[i]);
  receiver.start();
  std::vector<uint64_t> ends;  // the sequence number after each transfer
  for (size_t i = 0; i < sizes.size(); i++) {
    ends.push_back(pair_.client->bulk().send(i, sources[i].data(), sizes[i], sent.callback()));
  }
  const size_t blocks = ends.back();
  ASSERT_TRUE(receiver.sink.wait_landed(blocks));
  ASSERT_TRUE(sent.wait(int(sizes.size())));
  EXPECT_EQ(sent.failed(), 0);
  EXPECT_EQ(receiver.placed > 0, pair_.worker->limits().places);
  for (size_t i = 0; i < sizes.size(); i++) EXPECT_TRUE(same_bytes(receiver.buffers[i], sources[i])) << sizes[i] << " bytes";

  // Every block once, numbered in send order, of at most kBlock bytes, each where the one before it ended.
  auto landed = receiver.sink.blocks();
  std::sort(landed.begin(), landed.end(), [](auto& a, auto& b) { return a.sequence < b.sequence; });
  uint64_t sequence = 0;
  for (size_t i = 0; i < sizes.size(); i++) {
    for (size_t offset = 0; offset < sizes[i]; sequence++) {
      const Block& block = landed.at(sequence);
      ASSERT_EQ(block.sequence, sequence);
      ASSERT_EQ(block.transfer, i);
      ASSERT_EQ(block.offset, offset);
      ASSERT_GT(block.bytes, 0u);
      ASSERT_LE(block.bytes, std::min(kBlock, sizes[i] - offset));
      offset += block.bytes;
    }
    ASSERT_EQ(sequence, ends[i]);
  }
}

TEST_P(BulkContract, BothDirectionsFromSeveralThreadsAlwaysFinish) {
  constexpr int kThreads = 3, kTransfers = 5;  // of five blocks each: more than the ring of most holds
  auto source = random_bytes(4 * kBlock + 12'345, 1);
  SentCounter sent;
  Receiver at_worker(*pair_.worker);
  Receiver at_client(*pair_.client);
  for (uint64_t id = 0; id < kThreads * kTransfers; id++) {
    at_worker.expect(id, source.size());
    at_client.expect(id, source.size());
  }
  at_worker.start();
  at_client.start();
  std::vector<std::thread> threads;
  for (Link* link : {pair_.client.get(), pair_.worker.get()}) {
    for (int t = 0; t < kThreads; t++) {
      threads.emplace_back([&, link, t] {
        for (int i = 0; i < kTransfers; i++)
          link->bulk().send(uint64_t(t * kTransfers + i), source.data(), source.size(), sent.callback());
      });
    }
    // The streams run beside it.
    threads.emplace_back([link] {
      std::vector<std::byte> chatter(10'000);
      iovec part{chatter.data(), chatter.size()};
      for (int i = 0; i < 200; i++) EXPECT_TRUE(link->calls().send(std::span(&part, 1)).ok());
    });
    threads.emplace_back([link] {
      std::vector<std::byte> chatter(2'000'000);
      EXPECT_TRUE(receive_exactly(link->calls(), chatter));
    });
  }
  for (auto& thread : threads) thread.join();
  size_t blocks = kThreads * kTransfers * blocks_of(source.size());
  ASSERT_TRUE(at_worker.sink.wait_landed(blocks));
  ASSERT_TRUE(at_client.sink.wait_landed(blocks));
  ASSERT_TRUE(sent.wait(2 * kThreads * kTransfers));
  EXPECT_EQ(sent.failed(), 0);
  for (auto* receiver : {&at_worker, &at_client})
    for (auto& [id, buffer] : receiver->buffers) EXPECT_TRUE(same_bytes(buffer, source)) << id;
}

TEST_P(BulkContract, AFullRingStallsTheSenderButNotSend) {
  const uint32_t ring = pair_.worker->limits().ring_blocks;
  SentCounter sent;
  std::vector<std::byte> source(1000);
  Sink unused, sink;  // `sink` keeps every slot
  unused.attach(pair_.client->bulk());
  sink.attach(pair_.worker->bulk());
  auto before = Clock::now();
  for (uint64_t i = 0; i < 3 * ring; i++)
    EXPECT_EQ(pair_.client->bulk().send(i, source.data(), 1000, sent.callback()), i + 1);
  EXPECT_LT(Clock::now() - before, kPromptly);
  ASSERT_TRUE(sink.wait_landed(ring));
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(sink.landed_count(), ring) << "blocks came past the window";

  // Any order; as long as block 0 is held, block ring stays out.
  auto held = sink.blocks();
  std::sort(held.begin(), held.end(), [](auto& a, auto& b) { return a.sequence < b.sequence; });
  std::shuffle(held.begin() + 1, held.end(), std::mt19937(1));
  for (size_t i = 1; i < held.size(); i++) pair_.worker->bulk().release(held[i]);
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(sink.landed_count(), ring);
  pair_.worker->bulk().release(held[0]);
  ASSERT_TRUE(sink.wait_landed(2 * ring));

  // One release lets exactly one block in.
  held = sink.blocks();
  auto next = std::find_if(held.begin(), held.end(), [ring](auto& block) { return block.sequence == ring; });
  ASSERT_NE(next, held.end());
  pair_.worker->bulk().release(*next);
  pair_.worker->bulk().release(*next);  // twice counts once
  ASSERT_TRUE(sink.wait_landed(2 * ring + 1));
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(sink.landed_count(), 2 * ring + 1);

  pair_.client->bulk().stop();
  EXPECT_EQ(sent.ok() + sent.failed(), int(3 * ring));
  EXPECT_GE(sent.failed(), 1);
}

TEST_P(BulkContract, RingSlotsAreDistinctAndKeepTheirBytes) {
  const uint32_t ring = pair_.worker->limits().ring_blocks;
  std::mutex mutex;
  std::map<uint64_t, std::byte*> places;
  constexpr size_t kBlocks = 4;  // of a transfer: a shorter one is cut finer
  auto source = random_bytes(kBlocks * kBlock + ring, 2);  // each transfer from one byte further on
  SentCounter sent;
  Sink unused, sink;
  sink.on_landed = [&](const Block& block, std::byte* data) {
    std::lock_guard lock(mutex);
    places[block.sequence] = data;
    return true;
  };
  unused.attach(pair_.client->bulk());
  sink.attach(pair_.worker->bulk());
  for (uint32_t i = 0; i < ring / kBlocks; i++) pair_.client->bulk().send(i, source.data() + i, kBlocks * kBlock, sent.callback());
  ASSERT_TRUE(sink.wait_landed(ring));
  std::set<std::byte*> distinct;
  for (auto [sequence, data] : places) {
    distinct.insert(data);
    EXPECT_EQ(memcmp(data, source.data() + sequence / kBlocks + sequence % kBlocks * kBlock, kBlock), 0) << sequence;
  }
  EXPECT_EQ(distinct.size(), ring);
  EXPECT_TRUE(sent.wait(int(ring / kBlocks)));
}

TEST_P(BulkContract, AnEmptyTransferIsSentAtOnce) {
  SentCounter sent;
  Sink unused;
  unused.attach(pair_.client->bulk());
  EXPECT_EQ(pair_.client->bulk().send(1, nullptr, 0, sent.callback()), 0u);
  ASSERT_TRUE(sent.wait(1, 5s));
  EXPECT_EQ(sent.ok(), 1);
}

TEST_P(BulkContract, BlocksWaitForTheSinkToStart) {
  auto source = random_bytes(100'000, 2);
  SentCounter sent;
  Sink unused, sink;
  unused.attach(pair_.client->bulk());
  pair_.client->bulk().send(1, source.data(), source.size(), sent.callback());
  std::this_thread::sleep_for(50ms);
  sink.attach(pair_.worker->bulk());
  EXPECT_TRUE(sink.wait_landed(1));
  EXPECT_TRUE(sent.wait(1));
}

TEST_P(BulkContract, SentRunsExactlyOnce) {
  constexpr int kTransfers = 600;
  std::vector<std::byte> source(1500);
  std::vector<std::atomic<int>> calls(kTransfers);
  SentCounter sent;
  Receiver receiver(*pair_.worker);
  Sink unused;
  unused.attach(pair_.client->bulk());
  for (int i = 0; i < kTransfers; i++) receiver.expect(uint64_t(i), source.size());
  receiver.start();
  auto counted = sent.callback();
  for (int i = 0; i < kTransfers; i++) {
    pair_.client->bulk().send(uint64_t(i), source.data(), source.size(), [&, i](const Status& status) {
      calls[size_t(i)]++;
      counted(status);
    });
    if (i == kTransfers / 2) pair_.worker->shut();
  }
  ASSERT_TRUE(sent.wait(kTransfers));
  pair_.client->bulk().stop();
  for (auto& count : calls) EXPECT_EQ(count, 1);
  EXPECT_GT(sent.failed(), 0);
  // After the end, too.
  pair_.client->bulk().send(9999, source.data(), source.size(), sent.callback());
  ASSERT_TRUE(sent.wait(kTransfers + 1));
}

TEST_P(BulkContract, ARefusedBlockShutsTheLink) {
  SentCounter sent;
  Sink unused, sink;
  sink.on_landed = [](const Block& block, std::byte*) { return block.transfer != 13; };
  unused.attach(pair_.client->bulk());
  sink.attach(pair_.worker->bulk());
  std::byte byte{};
  pair_.client->bulk().send(13, &byte, 1, sent.callback());
  EXPECT_TRUE(sink.wait_lost());
  EXPECT_TRUE(unused.wait_lost());
  EXPECT_TRUE(sent.wait(1));
  EXPECT_FALSE(receive_exactly(pair_.client->calls(), {&byte, 1}));
  EXPECT_FALSE(receive_exactly(pair_.worker->side(), {&byte, 1}));
}

TEST_P(BulkContract, ARefusedPlaceShutsTheLink) {
  if (!pair_.worker->limits().places) GTEST_SKIP() << "this transport never asks for a place";
  Sink unused, sink;
  sink.on_place = [](const Block&) { return kReject; };
  SentCounter sent;
  unused.attach(pair_.client->bulk());
  sink.attach(pair_.worker->bulk());
  std::byte byte{};
  pair_.client->bulk().send(13, &byte, 1, sent.callback());
  EXPECT_TRUE(sink.wait_lost());
  EXPECT_TRUE(unused.wait_lost());
  EXPECT_TRUE(sent.wait(1));
  EXPECT_EQ(sink.landed_count(), 0u);
}

TEST_P(BulkContract, StopWhileBusy) {
  for (Link* stopped : {pair_.client.get(), pair_.worker.get()}) {
    Pair pair = make_pair(GetParam());
    Link& stopping = stopped == pair_.client.get() ? *pair.client : *pair.worker;
    Sink sinks[2];
    std::atomic<bool> over{false};
    std::atomic<int> late{0};
    for (int i : {0, 1}) {
      Bulk& bulk = (i == 0 ? pair.client : pair.worker)->bulk();
      bool ends = &bulk == &stopping.bulk();
      sinks[i].on_landed = [&, ends](const Block& block, std::byte*) {
        if (ends && over) late++;
        bulk.release(block);
        return true;
      };
      bulk.start(sinks[i]);
    }
    auto source = random_bytes(40 * kBlock, 1);
    SentCounter sent;
    for (Link* link : {pair.client.get(), pair.worker.get()})
      for (uint64_t i = 0; i < 4; i++) link->bulk().send(i, source.data(), source.size(), sent.callback());
    EXPECT_TRUE(sinks[0].wait_landed(5));
    EXPECT_TRUE(sinks[1].wait_landed(5));
    auto before = Clock::now();
    stopping.bulk().stop();
    over = true;
    EXPECT_LT(Clock::now() - before, kPromptly);
    Link& other = &stopping == pair.client.get() ? *pair.worker : *pair.client;
    EXPECT_TRUE((&stopping == pair.client.get() ? sinks[1] : sinks[0]).wait_lost());
    EXPECT_TRUE(sent.wait(8));
    std::this_thread::sleep_for(20ms);
    EXPECT_EQ(late, 0);
    // The streams outlive an orderly stop.
    std::byte byte{1};
    iovec part{&byte, 1};
    EXPECT_TRUE(stopping.calls().send(std::span(&part, 1)).ok());
    EXPECT_TRUE(receive_exactly(other.calls(), {&byte, 1}));
    pair.client.reset();
    pair.worker.reset();
    for (Sink& sink : sinks) EXPECT_LE(sink.lost_count(), 1);
  }
}

TEST_P(BulkContract, StopWithoutStartEndsWhatIsPending) {
  SentCounter sent;
  std::byte byte{};
  pair_.client->bulk().send(1, &byte, 1, sent.callback());
  pair_.client->bulk().stop();
  pair_.client->bulk().stop();
  EXPECT_EQ(sent.failed(), 1);
}

}  // namespace
}  // namespace bf::transport::test
