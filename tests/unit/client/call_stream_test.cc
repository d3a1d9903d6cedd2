#include "client/call_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

namespace bf::client {
namespace {

// Keeps what was sent; can be held up and can fail.
class FakeStream final : public transport::Stream {
 public:
  Status send(std::span<const iovec> parts) override {
    while (held) std::this_thread::yield();
    if (fails) return Status(StatusCode::kUnavailable, "gone");
    EXPECT_FALSE(sending.exchange(true)) << "two senders at once";
    for (const iovec& part : parts) {
      auto* bytes = static_cast<const std::byte*>(part.iov_base);
      sent.insert(sent.end(), bytes, bytes + part.iov_len);
    }
    ++sends;
    sending = false;
    return ok_status();
  }
  Result<size_t> receive(std::span<std::byte>) override { return size_t{0}; }
  bool ready() override { return true; }
  void wait_until_ready() override {}
  void shut() noexcept override {}

  std::vector<std::byte> sent;
  int sends = 0;
  std::atomic<bool> held{false}, fails{false}, sending{false};
};

struct CallStreamTest : testing::Test {
  CallStreamTest() : flusher([this] { calls.run_flusher(); }) {}
  ~CallStreamTest() override {
    calls.close();
    flusher.join();
  }
  bool append(uint32_t lane, uint32_t number, CallStream::Urgency urgency, size_t payload_bytes = 0) {
    FrameHeader header{sizeof number, uint32_t(payload_bytes), 300, 0, lane};
    std::vector<std::byte> bytes(payload_bytes, std::byte(number));
    iovec part{bytes.data(), bytes.size()};
    return calls.append(header, std::as_bytes(std::span(&number, 1)), Payload(&part, 1), urgency);
  }

  FakeStream stream;
  std::atomic<int> lost{0};
  CallStream calls{stream, [this](const Status&) {
                     ++lost;
                     calls.close();
                   }};
  std::thread flusher;
};

TEST_F(CallStreamTest, KeepsEachLanesOrderAndWholeFrames) {
  constexpr uint32_t kThreads = 6, kFrames = 3000;
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < kThreads; ++lane) {
    threads.emplace_back([this, lane] {
      for (uint32_t i = 0; i < kFrames; ++i) {
        auto urgency = i % 17 == 0 ? CallStream::Urgency::kNow : CallStream::Urgency::kLater;
        ASSERT_TRUE(append(lane, i, urgency, i % 5 * 100));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  calls.drain(5000);
  std::map<uint32_t, uint32_t> next;
  size_t at = 0;
  while (at < stream.sent.size()) {
    FrameHeader header;
    uint32_t number;
    ASSERT_LE(at + sizeof header + sizeof number, stream.sent.size());
    std::memcpy(&header, stream.sent.data() + at, sizeof header);
    std::memcpy(&number, stream.sent.data() + at + sizeof header, sizeof number);
    ASSERT_EQ(number, next[header.lane]++);
    for (uint32_t i = 0; i < header.payload_bytes; ++i) {
      ASSERT_EQ(stream.sent[at + sizeof header + sizeof number + i], std::byte(number));
    }
    at += sizeof header + header.body_bytes + header.payload_bytes;
  }
  for (uint32_t lane = 0; lane < kThreads; ++lane) EXPECT_EQ(next[lane], kFrames);
}

TEST_F(CallStreamTest, CoalescesWhileASendIsUnderWay) {
  stream.held = true;
  for (uint32_t i = 0; i < 1000; ++i) ASSERT_TRUE(append(0, i, CallStream::Urgency::kLater));
  stream.held = false;
  calls.drain(5000);
  EXPECT_LE(stream.sends, 3);
  EXPECT_EQ(stream.sent.size(), 1000 * (sizeof(FrameHeader) + 4));
}

TEST_F(CallStreamTest, ADeadPeerIsToldOnceAndEveryAppendFails) {
  stream.fails = true;
  append(0, 0, CallStream::Urgency::kNow);
  EXPECT_FALSE(append(0, 1, CallStream::Urgency::kLater));
  EXPECT_FALSE(append(0, 2, CallStream::Urgency::kNow));
  EXPECT_EQ(lost, 1);
}

TEST_F(CallStreamTest, AFullBufferHoldsPostersBackUntilClosed) {
  stream.held = true;
  std::atomic<int> appended{0};
  std::thread poster([&] {
    while (append(0, 1, CallStream::Urgency::kLater, 4 << 20)) ++appended;
  });
  for (int i = 0; i < 10000 && appended < 3; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_GE(appended, 3);
  EXPECT_LT(appended, 12);
  calls.close();
  poster.join();
  stream.held = false;
}

}  // namespace
}  // namespace bf::client
