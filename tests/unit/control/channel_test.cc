// Control frames on a socket, and the datagrams between bfserver and its workers.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/fd.h"
#include "proto/control.h"
#include "proto/control_channel.h"
#include "proto/supervise.h"

namespace bf {
namespace {

using namespace std::chrono_literals;
using control::deadline_in;

struct Pair {
  Fd a, b;
  explicit Pair(int type = SOCK_STREAM) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends), 0);
    a.reset(ends[0]);
    b.reset(ends[1]);
  }
};

size_t open_descriptors() {
  size_t count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder) != nullptr) count++;
  closedir(folder);
  return count;
}

TEST(ControlChannel, CarriesAFrameAndNotAByteMore) {
  Pair pair;
  ASSERT_TRUE(control::send_frame(pair.a.get(), Opcode::kPing, kReply, "body", "payload", deadline_in(1s)).ok());
  ASSERT_EQ(write(pair.a.get(), "after", 5), 5);
  auto frame = control::receive_frame(pair.b.get(), deadline_in(1s));
  ASSERT_TRUE(frame.ok()) << frame.status().message();
  EXPECT_EQ(frame->opcode, Opcode::kPing);
  EXPECT_EQ(frame->flags, kReply);
  EXPECT_EQ(frame->body, "body");
  EXPECT_EQ(frame->payload, "payload");
  char rest[16] = {};
  EXPECT_EQ(read(pair.b.get(), rest, sizeof rest), 5);
  EXPECT_STREQ(rest, "after");
}

TEST(ControlChannel, CarriesFramesLargerThanTheSocketBuffers) {
  Pair pair;
  std::string payload(limits::kPayloadBytes, 'p');
  std::thread sender([&] {
    EXPECT_TRUE(control::send_frame(pair.a.get(), Opcode::kBandwidth, 0, "b", payload, deadline_in(10s)).ok());
  });
  auto frame = control::receive_frame(pair.b.get(), deadline_in(10s));
  sender.join();
  ASSERT_TRUE(frame.ok());
  EXPECT_EQ(frame->payload, payload);
}

TEST(ControlChannel, KeepsItsDeadline) {
  Pair pair;
  auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(control::receive_frame(pair.b.get(), deadline_in(50ms)).status().code(), StatusCode::kTimeout);
  ASSERT_EQ(write(pair.a.get(), "half a header", 8), 8);
  EXPECT_EQ(control::receive_frame(pair.b.get(), deadline_in(50ms)).status().code(), StatusCode::kTimeout);
  std::string payload(limits::kPayloadBytes, 'p');
  EXPECT_EQ(control::send_frame(pair.a.get(), Opcode::kPing, 0, {}, payload, deadline_in(50ms)).code(),
            StatusCode::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
}

TEST(ControlChannel, NoticesThatThePeerLeft) {
  Pair pair;
  ASSERT_EQ(write(pair.a.get(), "x", 1), 1);
  pair.a.reset();
  EXPECT_EQ(control::receive_frame(pair.b.get(), deadline_in(1s)).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(control::send_frame(pair.b.get(), Opcode::kPing, 0, {}, {}, deadline_in(1s)).code(),
            StatusCode::kUnavailable);
}

TEST(ControlChannel, RefusesHeadersOutOfBounds) {
  FrameHeader good{0, 0, uint16_t(Opcode::kPing), 0, 0};
  auto with = [&](auto change) {
    FrameHeader header = good;
    change(header);
    Pair pair;
    EXPECT_EQ(write(pair.a.get(), &header, sizeof header), ssize_t(sizeof header));
    return control::receive_frame(pair.b.get(), deadline_in(1s), 100).status().code();
  };
  EXPECT_EQ(with([](FrameHeader&) {}), StatusCode::kOk);
  EXPECT_EQ(with([](FrameHeader& h) { h.body_bytes = limits::kControlBodyBytes + 1; }), StatusCode::kInvalid);
  EXPECT_EQ(with([](FrameHeader& h) { h.payload_bytes = 101; }), StatusCode::kInvalid);
  EXPECT_EQ(with([](FrameHeader& h) { h.opcode = 0; }), StatusCode::kInvalid);
  EXPECT_EQ(with([](FrameHeader& h) { h.opcode = uint16_t(Opcode::kFirstCall); }), StatusCode::kInvalid);
  EXPECT_EQ(with([](FrameHeader& h) { h.lane = limits::kLanes; }), StatusCode::kInvalid);
}

Result<std::string> asked(Opcode opcode, uint16_t flags, const std::string& body) {
  Pair pair;
  (void)control::send_frame(pair.a.get(), opcode, flags, body, {}, deadline_in(1s));
  return control::round_trip(pair.b.get(), Opcode::kList, {}, deadline_in(1s));
}

TEST(ControlChannel, RoundTripKnowsItsReply) {
  auto answer = asked(Opcode::kList, kReply, "answer");
  ASSERT_TRUE(answer.ok()) << answer.status().message();
  EXPECT_EQ(*answer, "answer");
  auto refused = asked(Opcode::kError, 0, control::encode_ErrorReply({uint32_t(StatusCode::kDenied), "not you"}));
  EXPECT_EQ(refused.status().code(), StatusCode::kDenied);
  EXPECT_EQ(refused.status().message(), "not you");
  EXPECT_EQ(asked(Opcode::kList, 0, "not a reply").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(asked(Opcode::kHealth, kReply, "another").status().code(), StatusCode::kInvalid);
  EXPECT_FALSE(asked(Opcode::kError, 0, control::encode_ErrorReply({})).ok());
}

TEST(Supervise, CarriesDescriptors) {
  auto pair = supervise::make_pair();
  ASSERT_TRUE(pair.ok());
  Pair passed;
  int fds[2] = {passed.a.get(), passed.b.get()};
  ASSERT_TRUE(supervise::send(pair->first.get(), supervise::Kind::kAssign, "session", fds).ok());
  ASSERT_TRUE(supervise::send(pair->first.get(), supervise::Kind::kChannel, "second").ok());
  auto message = supervise::receive(pair->second.get(), deadline_in(1s));
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(message->kind, supervise::Kind::kAssign);
  EXPECT_EQ(message->body, "session");
  ASSERT_EQ(message->fds.size(), 2u);
  EXPECT_TRUE(fcntl(message->fds[0].get(), F_GETFD) & FD_CLOEXEC);
  ASSERT_EQ(write(message->fds[0].get(), "x", 1), 1);
  char byte;
  EXPECT_EQ(read(passed.b.get(), &byte, 1), 1);
  auto second = supervise::receive(pair->second.get());
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->body, "second");
}

TEST(Supervise, SaysWhyNothingCame) {
  auto pair = supervise::make_pair();
  ASSERT_TRUE(pair.ok());
  EXPECT_EQ(supervise::receive(pair->second.get(), {}).status().code(), StatusCode::kTimeout);
  EXPECT_EQ(supervise::receive(pair->second.get(), deadline_in(20ms)).status().code(), StatusCode::kTimeout);
  pair->first.reset();
  EXPECT_EQ(supervise::receive(pair->second.get()).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(supervise::send(pair->second.get(), supervise::Kind::kReady, {}).code(), StatusCode::kUnavailable);
}

TEST(Supervise, NeverBlocksOnADeafPeer) {
  auto pair = supervise::make_pair();
  ASSERT_TRUE(pair.ok());
  Status last;
  for (int i = 0; i < 100'000 && last.ok(); i++)
    last = supervise::send(pair->first.get(), supervise::Kind::kReport, std::string(1000, 'r'));
  EXPECT_EQ(last.code(), StatusCode::kExhausted);
}

TEST(Supervise, RefusesWhatBreaksTheFormatAndLeaksNothing) {
  auto pair = supervise::make_pair();
  ASSERT_TRUE(pair.ok());
  size_t before = open_descriptors();
  auto sent_raw = [&](const std::string& bytes, size_t descriptors) {
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    std::vector<char> space(CMSG_SPACE(sizeof(int) * descriptors));
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (descriptors > 0) {
      message.msg_control = space.data();
      message.msg_controllen = space.size();
      cmsghdr* c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof(int) * descriptors);
      for (size_t i = 0; i < descriptors; i++) memcpy(CMSG_DATA(c) + i * sizeof(int), "\0\0\0\0", 4);
    }
    EXPECT_EQ(sendmsg(pair->first.get(), &message, 0), ssize_t(bytes.size()));
    return supervise::receive(pair->second.get(), deadline_in(1s)).status().code();
  };
  EXPECT_EQ(sent_raw("abc", 0), StatusCode::kInvalid);
  EXPECT_EQ(sent_raw(std::string("\x09\0\0\0", 4), 0), StatusCode::kInvalid);
  EXPECT_EQ(sent_raw(std::string("\0\0\0\0", 4), 1), StatusCode::kInvalid);
  EXPECT_EQ(sent_raw(std::string("\x01\0\0\0", 4), supervise::kDescriptors + 3), StatusCode::kInvalid);
  EXPECT_EQ(sent_raw("\x01" + std::string(supervise::kDatagramBytes, '\0'), 1), StatusCode::kInvalid);
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace bf
