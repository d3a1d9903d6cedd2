// Who takes what comes on the call stream: those who wait, and the receiver's own thread for everything else.
#include "client/receiver.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace bf::client {
namespace {

using namespace std::chrono_literals;

struct ReceiverTest : testing::Test {
  static constexpr uint16_t kOpcode = 300, kUnknown = 301;

  ReceiverTest() : own([this] { receiver.run([this] { return works.load(); }); }) {}
  ~ReceiverTest() override {
    pair.worker->shut();
    own.join();
    EXPECT_EQ(lost.load(), 1);
  }

  void send(uint32_t lane, uint16_t opcode = kOpcode, uint32_t payload_bytes = 0) {
    FrameHeader header{0, payload_bytes, opcode, kReply, lane};
    std::vector<std::byte> payload(payload_bytes, std::byte(lane));
    iovec parts[] = {{&header, sizeof header}, {payload.data(), payload.size()}};
    std::lock_guard guard(send_mutex);
    EXPECT_TRUE(pair.worker->calls().send(parts).ok());
  }
  bool take(const FrameHeader& header, std::span<const std::byte> payload) {
    EXPECT_FALSE(taking.exchange(true)) << "two threads at once";
    for (std::byte byte : payload) EXPECT_EQ(byte, std::byte(header.lane));
    {
      std::lock_guard guard(mutex);
      taker[header.lane] = std::this_thread::get_id();
    }
    bytes += payload.size();
    answers[header.lane].fetch_add(1);
    futex_wake(answers[header.lane], 1);
    taking = false;
    return header.opcode == kOpcode;
  }
  // As a session does it: `spin` is how long a thread tries before it sleeps.
  void wait_for(uint32_t lane, uint32_t count, std::chrono::microseconds spin) {
    const auto waits = [&] { return answers[lane].load() < count && lost == 0; };
    for (transport::LookOut look(spin); waits() && !receiver.receive_while(waits, spin) && !look.over();) std::this_thread::yield();
    if (!waits()) return;
    Receiver::Waiter waiter(receiver);
    receiver.receive_while(waits, spin);
    for (uint32_t seen; waits();) {
      seen = answers[lane].load();
      if (seen < count && lost == 0) futex_wait(answers[lane], seen);
    }
  }

  transport::LoopbackPair pair = transport::make_loopback();
  std::mutex send_mutex, mutex;
  std::atomic<bool> works{false}, taking{false};
  std::atomic<int> lost{0};
  std::atomic<size_t> bytes{0};
  std::array<std::atomic<uint32_t>, 8> answers{};
  std::map<uint32_t, std::thread::id> taker;
  Receiver receiver{pair.client->calls(),
                    [this](const FrameHeader& header, auto, std::span<const std::byte> payload) { return take(header, payload); },
                    [this](const Status&) {
                      ++lost;
                      for (auto& answer : answers) {
                        answer += 1 << 20;  // a sleeper looks at this word only
                        futex_wake(answer, INT_MAX);
                      }
                    }};
  std::thread own;
};

TEST_F(ReceiverTest, WhatNobodyWaitsForIsTakenByTheOwnThread) {
  for (bool now : {false, true}) {
    works = now;
    for (int i = 0; i < 20; ++i) {
      const uint32_t before = answers[1];
      send(1);
      const auto deadline = std::chrono::steady_clock::now() + 10s;
      while (answers[1] == before && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(100us);
      ASSERT_EQ(answers[1], before + 1);
    }
    EXPECT_EQ(taker[1], own.get_id());
  }
}

TEST_F(ReceiverTest, WhoWaitsTakesHisAnswerHimself) {
  works = true;
  std::this_thread::sleep_for(5ms);  // the own thread is in the stream; the first answer fetches it from there
  send(1);
  wait_for(1, 1, 0us);
  int mine = 0;
  for (uint32_t i = 2; i <= 200; ++i) {
    std::thread late([&] {
      std::this_thread::sleep_for(20us);
      send(1);
    });
    wait_for(1, i, 10ms);
    late.join();
    mine += taker[1] == std::this_thread::get_id();
  }
  EXPECT_GT(mine, 100) << "the own thread only looks in every now and then";
}

// Any of them may take the others' answers, and go while they still wait.
TEST_F(ReceiverTest, EveryoneGetsHisAnswer) {
  constexpr uint32_t kRounds = 400;
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < 6; ++lane) {
    threads.emplace_back([&, lane] {
      for (uint32_t i = 1; i <= kRounds; ++i) {
        std::thread late([&] { send(lane, kOpcode, lane * 5000); });
        wait_for(lane, i, lane % 2 ? 0us : 50us);
        late.join();
        if (i % 50 == lane) works = !works;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(bytes, size_t{kRounds} * 5000 * (0 + 1 + 2 + 3 + 4 + 5));
}

TEST_F(ReceiverTest, TheEndWakesThoseWhoWait) {
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < 4; ++lane) threads.emplace_back([&, lane] { wait_for(lane, 1, lane % 2 ? 0us : 1ms); });
  std::this_thread::sleep_for(20ms);
  pair.worker->shut();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(lost, 1);
}

TEST_F(ReceiverTest, AFrameThatAnswersNothingIsTheEnd) {
  works = true;
  send(1, kUnknown);
  wait_for(2, 1, 1ms);
  EXPECT_EQ(lost, 1);
}

}  // namespace
}  // namespace bf::client
