// The contract of Link's streams, on every transport.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <future>
#include <random>
#include <thread>

#include "proto/shared_memory.h"
#include "tests/contract/link_pair.h"

namespace bf::transport::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

class StreamContract : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (auto why = missing(GetParam()); !why.empty()) GTEST_SKIP() << why;
    pair_ = make_pair(GetParam());
  }
  Pair pair_;
};
INSTANTIATE_TEST_SUITE_P(All, StreamContract, testing::ValuesIn(all_kinds()),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// Sends `bytes` in pieces of random size, each cut into several parts, some of them empty.
void send_in_pieces(Stream& stream, const std::vector<std::byte>& bytes, size_t max_piece, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t at = 0; at < bytes.size();) {
    size_t piece = std::min<size_t>(1 + random() % max_piece, bytes.size() - at);
    std::vector<iovec> parts;
    for (size_t done = 0; done < piece;) {
      size_t part = std::min<size_t>(random() % (max_piece / 3 + 2), piece - done);
      parts.push_back({const_cast<std::byte*>(bytes.data()) + at + done, part});
      done += part;
    }
    ASSERT_TRUE(stream.send(parts).ok());
    at += piece;
  }
}

Status send_bytes(Stream& stream, std::span<const std::byte> bytes) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  return stream.send(std::span(&part, 1));
}

TEST_P(StreamContract, BytesArriveInOrderWhateverThePieces) {
  for (size_t max_piece : {5u, 300u, 70'000u, 3'000'000u}) {
    auto bytes = random_bytes(max_piece < 100 ? 20'000 : 4'000'000, max_piece);
    std::thread sender([&] { send_in_pieces(pair_.client->calls(), bytes, max_piece, 1); });
    std::vector<std::byte> got(bytes.size());
    EXPECT_TRUE(receive_exactly(pair_.worker->calls(), got, max_piece % 2 ? 0us : 20us));
    sender.join();
    ASSERT_EQ(memcmp(got.data(), bytes.data(), bytes.size()), 0) << "pieces up to " << max_piece;
  }
}

TEST_P(StreamContract, OneSendTakesManyAndLargeParts) {
  auto bytes = random_bytes(12'000'000, 3);
  std::vector<iovec> parts;
  size_t at = 0;
  for (int i = 0; i < 1500; i++) {
    parts.push_back({bytes.data() + at, size_t(i % 7 * 100)});
    at += parts.back().iov_len;
  }
  parts.push_back({bytes.data() + at, bytes.size() - at});
  std::thread sender([&] { EXPECT_TRUE(pair_.client->calls().send(parts).ok()); });
  std::vector<std::byte> got(bytes.size());
  EXPECT_TRUE(receive_exactly(pair_.worker->calls(), got));
  sender.join();
  EXPECT_EQ(memcmp(got.data(), bytes.data(), bytes.size()), 0);
}

TEST_P(StreamContract, AllFourStreamsAtOnce) {
  Stream* ends[4][2] = {{&pair_.client->calls(), &pair_.worker->calls()},
                        {&pair_.worker->calls(), &pair_.client->calls()},
                        {&pair_.client->side(), &pair_.worker->side()},
                        {&pair_.worker->side(), &pair_.client->side()}};
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&, i] { send_in_pieces(*ends[i][0], random_bytes(3'000'000, i), 100'000, i); });
    threads.emplace_back([&, i] {
      std::vector<std::byte> got(3'000'000);
      if (receive_exactly(*ends[i][1], got, 5us) && same_bytes(got, random_bytes(3'000'000, i))) right++;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 4);
}

TEST_P(StreamContract, ThousandsOfRoundTrips) {
  constexpr int kRounds = 2000;
  std::thread echo([&] {
    std::array<std::byte, 64> buffer;
    for (int i = 0; i < kRounds; i++) {
      if (!receive_exactly(pair_.worker->calls(), buffer, i % 2 ? 0us : 50us)) return;
      if (!send_bytes(pair_.worker->calls(), buffer).ok()) return;
    }
  });
  std::array<std::byte, 64> out{}, in{};
  int right = 0;
  for (int i = 0; i < kRounds; i++) {
    memcpy(out.data(), &i, sizeof i);
    if (!send_bytes(pair_.client->calls(), out).ok()) break;
    if (!receive_exactly(pair_.client->calls(), in, i % 3 ? 0us : 50us)) break;
    right += in == out;
  }
  pair_.client->shut();
  echo.join();
  EXPECT_EQ(right, kRounds);
}

TEST_P(StreamContract, SenderWaitsForASlowReceiver) {
  auto bytes = random_bytes(40'000'000, 9);
  std::atomic<bool> sent{false};
  std::thread sender([&] {
    EXPECT_TRUE(send_bytes(pair_.client->calls(), bytes).ok());
    sent = true;
  });
  std::this_thread::sleep_for(200ms);
  EXPECT_FALSE(sent) << "40 MB fit into the transport: nothing bounds what a sender may pile up";
  // The side stream must not feel that.
  std::byte one{42}, got{};
  EXPECT_TRUE(send_bytes(pair_.client->side(), {&one, 1}).ok());
  EXPECT_TRUE(receive_exactly(pair_.worker->side(), {&got, 1}));
  std::vector<std::byte> all(bytes.size());
  EXPECT_TRUE(receive_exactly(pair_.worker->calls(), all));
  sender.join();
  EXPECT_TRUE(same_bytes(all, bytes));
}

TEST_P(StreamContract, AReceiverSeesWhenSomethingHasCome) {
  Stream& receiver = pair_.client->calls();
  EXPECT_FALSE(receiver.ready());
  int left = 3;
  EXPECT_FALSE(await_ready(receiver, 10s, [&] { return --left == 0; }));
  EXPECT_EQ(left, 0);
  EXPECT_FALSE(await_ready(receiver, 1ms));
  const auto bytes = random_bytes(100, 5);
  ASSERT_TRUE(send_bytes(pair_.worker->calls(), bytes).ok());
  ASSERT_TRUE(await_ready(receiver, kPromptly));
  std::vector<std::byte> got(bytes.size());
  // It stays so until everything has been taken, wherever the rest lies.
  for (size_t at = 0; at < got.size(); at += 10) {
    ASSERT_TRUE(receiver.ready());
    ASSERT_TRUE(receive_exactly(receiver, std::span(got).subspan(at, 10)));
  }
  EXPECT_EQ(got, bytes);
  EXPECT_FALSE(await_ready(receiver, 1ms));
  pair_.worker->shut();
  EXPECT_TRUE(await_ready(receiver, kPromptly));
}

TEST_P(StreamContract, WhoComesToSleepSeesWhatWasLeft) {
  Stream& receiver = pair_.client->calls();
  const auto bytes = random_bytes(100, 9);
  std::vector<std::byte> got(bytes.size());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(send_bytes(pair_.worker->calls(), bytes).ok());
    ASSERT_TRUE(await_ready(receiver, kPromptly));
    ASSERT_TRUE(receive_exactly(receiver, std::span(got).first(10)));
    auto sleeper = std::async(std::launch::async, [&] { receiver.wait_until_ready(); });
    const bool woke = sleeper.wait_for(kPromptly) == std::future_status::ready;
    ASSERT_TRUE(receive_exactly(receiver, std::span(got).subspan(10)));
    if (!woke) pair_.client->shut();
    ASSERT_TRUE(woke) << i;
    ASSERT_EQ(got, bytes);
  }
}

TEST_P(StreamContract, OneSleepsUntilThereIsSomethingForAnotherToReceive) {
  Stream& receiver = pair_.client->calls();
  std::atomic<uint64_t> woken{0};
  std::atomic<bool> over{false};
  std::thread sleeper([&] {
    while (!over) {
      receiver.wait_until_ready();
      ++woken;
      std::this_thread::yield();
    }
  });
  struct AtTheEnd {
    std::function<void()> run;
    ~AtTheEnd() { run(); }
  } const end{[&] {
    over = true;
    pair_.client->shut();
    sleeper.join();
  }};
  const auto bytes = random_bytes(100, 8);
  std::vector<std::byte> got(bytes.size());
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(send_bytes(pair_.worker->calls(), bytes).ok());
    ASSERT_TRUE(await_ready(receiver, kPromptly));
    ASSERT_TRUE(receive_exactly(receiver, got));
    ASSERT_EQ(got, bytes);
  }
  std::this_thread::sleep_for(50ms);
  const uint64_t before = woken;
  std::this_thread::sleep_for(50ms);
  EXPECT_LE(woken - before, 1u) << "there is nothing to wake up for";  // one that was on its way
  // Not for what has been taken, but for what was left.
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(send_bytes(pair_.worker->calls(), bytes).ok());
    ASSERT_TRUE(await_ready(receiver, kPromptly));
    ASSERT_TRUE(receive_exactly(receiver, std::span(got).first(10)));
    const uint64_t left = woken;
    const auto patient = std::chrono::steady_clock::now() + kPromptly;
    while (woken < left + 2 && std::chrono::steady_clock::now() < patient) std::this_thread::yield();
    ASSERT_GE(woken, left + 2) << i;
    ASSERT_TRUE(receive_exactly(receiver, std::span(got).subspan(10)));
    ASSERT_EQ(got, bytes);
    if (i % 10 == 0) std::this_thread::sleep_for(1ms);
  }
}

TEST_P(StreamContract, WhatWasSentBeforeTheEndStillArrives) {
  auto bytes = random_bytes(50'000, 4);
  ASSERT_TRUE(send_bytes(pair_.worker->calls(), bytes).ok());
  pair_.worker->shut();
  std::vector<std::byte> got(bytes.size());
  ASSERT_TRUE(receive_exactly(pair_.client->calls(), got));
  EXPECT_TRUE(got == bytes);
  auto end = pair_.client->calls().receive(got);
  ASSERT_TRUE(end.ok()) << end.status().message();
  EXPECT_EQ(end.value(), 0u);
  // Not at once, perhaps, but soon.
  auto deadline = Clock::now() + kPromptly;
  Status status;
  while (status.ok() && Clock::now() < deadline) status = send_bytes(pair_.client->calls(), {got.data(), 100});
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
}

// What a thread that was blocked when the link went got, and how long it took to come back.
struct Woken {
  bool failed = false;
  Clock::time_point at;
};

// One thread blocked in each direction of each stream of `link`; `act` must free all of them within a second.
void expect_all_woken(Link& link, const std::function<void()>& act) {
  Woken woken[4];
  std::vector<std::thread> threads;
  int index = 0;
  for (Stream* stream : {&link.calls(), &link.side()}) {
    threads.emplace_back([stream, &woken, index] {
      std::byte byte;
      auto got = stream->receive({&byte, 1});
      woken[index] = {!got.ok() || got.value() == 0, Clock::now()};
    });
    threads.emplace_back([stream, &woken, index] {
      bool failed = send_on(*stream).code() == StatusCode::kUnavailable;
      woken[index + 1] = {failed, Clock::now()};
    });
    index += 2;
  }
  std::this_thread::sleep_for(150ms);
  auto before = Clock::now();
  act();
  for (auto& thread : threads) thread.join();
  for (const Woken& one : woken) {
    EXPECT_TRUE(one.failed);
    EXPECT_LT(one.at - before, kPromptly);
  }
}

TEST_P(StreamContract, ShutWakesTheOwnThreads) {
  expect_all_woken(*pair_.client, [&] { pair_.client->shut(); });
  std::byte byte{};
  EXPECT_EQ(send_bytes(pair_.client->calls(), {&byte, 1}).code(), StatusCode::kUnavailable);
  EXPECT_EQ(pair_.client->calls().receive({&byte, 1}).status().code(), StatusCode::kUnavailable);
}

TEST_P(StreamContract, ShutWakesThePeersThreads) {
  expect_all_woken(*pair_.client, [&] { pair_.worker->shut(); });
}

TEST_P(StreamContract, DestroyingALinkWakesThePeersThreads) {
  expect_all_woken(*pair_.client, [&] { pair_.worker.reset(); });
}

TEST_P(StreamContract, OneStreamShutLeavesTheOther) {
  pair_.client->side().shut();
  pair_.client->side().shut();
  std::byte out{7}, in{};
  EXPECT_EQ(send_bytes(pair_.client->side(), {&out, 1}).code(), StatusCode::kUnavailable);
  auto end = pair_.worker->side().receive({&in, 1});
  EXPECT_TRUE(!end.ok() || end.value() == 0);
  EXPECT_TRUE(send_bytes(pair_.client->calls(), {&out, 1}).ok());
  EXPECT_TRUE(receive_exactly(pair_.worker->calls(), {&in, 1}));
  EXPECT_EQ(in, out);
}

TEST_P(StreamContract, LimitsAreTold) {
  for (Link* link : {pair_.client.get(), pair_.worker.get()}) {
    const Limits& limits = link->limits();
    bool tcp = GetParam() == Kind::kTcp4 || GetParam() == Kind::kTcp6 || GetParam() == Kind::kTls;
    bool rdma = GetParam() == Kind::kRdma;
    EXPECT_STREQ(limits.name, tcp ? "tcp" : rdma ? "rdma" : GetParam() == Kind::kShm ? "shm" : "loopback");
    EXPECT_EQ(limits.same_host, !tcp && !rdma);
    EXPECT_GE(limits.bulk_channels, 1u);
    EXPECT_GE(limits.ring_blocks, 1u);
    EXPECT_EQ(link->bulk().ring().size(), limits.ring_blocks * limits::kBulkBlockBytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(link->bulk().ring().data()) % 4096, 0u);
  }
}

TEST_P(StreamContract, SharedMemoryIsOneMemory) {
  const int files[] = {pair_.client->shared_memory(), pair_.worker->shared_memory()};
  if (GetParam() != Kind::kShm) {
    EXPECT_EQ(files[0], -1);
    EXPECT_EQ(files[1], -1);
    return;
  }
  constexpr off_t kFar = off_t(kSharedBytes) - 4096;
  std::byte* views[2];
  for (int end : {0, 1}) {
    struct stat facts;
    ASSERT_EQ(fstat(files[end], &facts), 0);
    EXPECT_EQ(facts.st_size, off_t(kSharedBytes));
    EXPECT_LT(facts.st_blocks * 512, 1 << 20) << "addresses, not memory";
    EXPECT_NE(ftruncate(files[end], 4096), 0) << "it could fault under the other's feet";
    void* view = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, files[end], kFar);
    ASSERT_NE(view, MAP_FAILED);
    views[end] = static_cast<std::byte*>(view);
  }
  views[0][5] = std::byte{1};
  views[1][6] = std::byte{2};
  EXPECT_EQ(views[1][5], std::byte{1});
  EXPECT_EQ(views[0][6], std::byte{2});
  for (std::byte* view : views) munmap(view, 4096);
}

// --- Loopback's faults
// -------------------------------------------------------------------------------------------------

TEST(LoopbackFaults, CutDeliversExactlyTheBytesBefore) {
  Faults faults;
  faults.cut_after_bytes = 1000;
  auto pair = make_loopback(faults, {});
  auto bytes = random_bytes(700, 1);
  EXPECT_TRUE(send_bytes(pair.client->calls(), bytes).ok());
  EXPECT_EQ(send_bytes(pair.client->calls(), bytes).code(), StatusCode::kUnavailable);
  std::vector<std::byte> got(1000);
  EXPECT_TRUE(receive_exactly(pair.worker->calls(), got));
  EXPECT_EQ(memcmp(got.data(), bytes.data(), 700), 0);
  EXPECT_EQ(memcmp(got.data() + 700, bytes.data(), 300), 0);
  EXPECT_EQ(pair.worker->calls().receive(got).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(send_bytes(pair.worker->calls(), bytes).code(), StatusCode::kUnavailable);
  EXPECT_FALSE(pair.client->side().receive(got).ok());
}

TEST(LoopbackFaults, CutWakesEverything) {
  Faults faults;
  faults.cut_after_bytes = 10;
  Sink client_sink, worker_sink;
  auto pair = make_loopback({}, faults);
  pair.client->bulk().start(client_sink);
  pair.worker->bulk().start(worker_sink);
  std::byte last[10] = {};
  EXPECT_TRUE(send_bytes(pair.worker->calls(), last).ok());
  EXPECT_TRUE(receive_exactly(pair.client->calls(), last));
  expect_all_woken(*pair.client, [&] { EXPECT_FALSE(send_bytes(pair.worker->calls(), last).ok()); });
  EXPECT_TRUE(client_sink.wait_lost(kPromptly));
  EXPECT_TRUE(worker_sink.wait_lost(kPromptly));
}

TEST(LoopbackFaults, OneByteIsCorrupted) {
  Faults faults;
  faults.corrupt_at_byte = 150;
  auto pair = make_loopback(faults, {});
  auto bytes = random_bytes(100, 1);
  for (int i = 0; i < 3; i++) {
    EXPECT_TRUE(send_bytes(pair.client->calls(), bytes).ok());
    EXPECT_TRUE(send_bytes(pair.client->side(), bytes).ok());
  }
  for (int i = 0; i < 3; i++) {
    std::vector<std::byte> got(100);
    EXPECT_TRUE(receive_exactly(pair.worker->side(), got));
    EXPECT_TRUE(got == bytes);
    EXPECT_TRUE(receive_exactly(pair.worker->calls(), got));
    if (i == 1) got[50] = ~got[50];
    EXPECT_TRUE(got == bytes) << i;
  }
}

TEST(LoopbackFaults, DelayIsLatencyNotThroughput) {
  Faults faults;
  faults.delay = 20ms;
  auto pair = make_loopback(faults, {});
  std::byte byte{};
  auto before = Clock::now();
  for (int i = 0; i < 50; i++) EXPECT_TRUE(send_bytes(pair.client->calls(), {&byte, 1}).ok());
  for (int i = 0; i < 50; i++) EXPECT_TRUE(receive_exactly(pair.worker->calls(), {&byte, 1}));
  EXPECT_GE(Clock::now() - before, 20ms);
  EXPECT_LT(Clock::now() - before, 500ms);
}

TEST(LoopbackFaults, SplitBoundsEveryReceive) {
  Faults faults;
  faults.split_bytes = 3;
  auto pair = make_loopback(faults, {});
  EXPECT_TRUE(send_bytes(pair.client->calls(), random_bytes(10, 1)).ok());
  std::byte buffer[10];
  for (size_t expected : {3u, 3u, 3u, 1u}) {
    auto got = pair.worker->calls().receive(buffer);
    ASSERT_TRUE(got.ok());
    EXPECT_EQ(got.value(), expected);
  }
}

}  // namespace
}  // namespace bf::transport::test
