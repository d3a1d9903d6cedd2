// Peers that mean harm or are broken: nobody else may notice.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "tests/unit/daemon/test_server.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using control::deadline_in;

void expect_served_quickly(const Server& server) {
  auto start = Clock::now();
  EXPECT_EQ(list(server).gpus.size(), 2u);
  EXPECT_LT(Clock::now() - start, 1s);
}

TEST(Hostile, ThousandsOfIdleConnectionsStarveNobody) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 6000) GTEST_SKIP() << "only " << files.rlim_cur << " descriptors allowed here";
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  std::vector<Fd> idle;
  for (int i = 0; i < 1500; i++) idle.push_back(dial(server.tcp()));
  expect_served_quickly(server);
  Lease held = lease(server, 1, 512);
  Session session = attach(server, held.reply, "echo");
  EXPECT_TRUE(echoes(session));
  // Past the bound the longest silent ones give way to newcomers.
  while (idle.size() < limits::kIdleConnections + 200) idle.push_back(dial(server.tcp()));
  expect_served_quickly(server);
  EXPECT_TRUE(closes(idle[0].get(), 1s));
  EXPECT_FALSE(closes(held.connection.get(), 10ms)) << "a lease is not an idle connection";
  EXPECT_TRUE(echoes(session));
  idle.clear();
  EXPECT_TRUE(eventually(5s, [&] { return server.open_descriptors() < 60; }));
}

TEST(Hostile, RandomBytesEndTheConnectionOnly) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  std::mt19937 random(1);
  for (int i = 0; i < 500; i++) {
    Fd socket = dial(i % 2 == 0 ? server.tcp() : server.unix_socket());
    std::string bytes(random() % 4096 + 16, '\0');
    for (char& byte : bytes) byte = char(random());
    if (i % 3 != 0) {  // a header that is accepted, then noise
      FrameHeader header{uint32_t(random() % 300), 0, uint16_t(random() % 9 + 1), uint16_t(random()), 0};
      memcpy(bytes.data(), &header, sizeof header);
    }
    (void)!send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  expect_served_quickly(server);
}

TEST(Hostile, HalfSentFramesAndSilenceAreTimedOut) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Fd silent = dial(server.tcp()), half = dial(server.tcp()), drip = dial(server.tcp());
  FrameHeader header{1000, 0, uint16_t(Opcode::kLease), 0, 0};
  ASSERT_EQ(send(half.get(), &header, 7, 0), 7);
  ASSERT_EQ(send(drip.get(), &header, sizeof header, 0), ssize_t(sizeof header));
  auto start = Clock::now();
  bool dripping = true;
  while (dripping && Clock::now() - start < 15s) {
    dripping = send(drip.get(), "x", 1, MSG_NOSIGNAL) == 1;
    std::this_thread::sleep_for(100ms);
  }
  EXPECT_FALSE(dripping) << "bytes that drip in do not extend the time";
  EXPECT_TRUE(closes(silent.get(), 1s));
  EXPECT_TRUE(closes(half.get(), 1s));
  EXPECT_GT(Clock::now() - start, 9s);
}

// netperf asks for a gigabyte and reads nothing; another sends without pause.
TEST(Hostile, BulkInTheEventLoopStarvesNobody) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Fd deaf = dial(server.tcp());
  ASSERT_TRUE(control::send_frame(deaf.get(), Opcode::kBandwidth, 0, control::encode_BandwidthRequest({1 << 30}), {},
                                  deadline_in(1s))
                  .ok());
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int i = 0; i < 3; i++)
    busy.emplace_back([&] {
      Fd socket = dial(server.tcp());
      std::string payload(limits::kPayloadBytes, 'x');
      while (!stop) {
        (void)control::send_frame(socket.get(), Opcode::kBandwidth, 0, {}, payload, deadline_in(5s));
        (void)control::receive_frame(socket.get(), deadline_in(5s));
      }
    });
  for (int i = 0; i < 20; i++) expect_served_quickly(server);
  stop = true;
  for (auto& thread : busy) thread.join();
}

TEST(Hostile, UnknownRequestsAreRefusedPolitely) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Fd socket = dial(server.tcp());
  auto answer = control::round_trip(socket.get(), Opcode::kData, {}, deadline_in(5s));
  EXPECT_EQ(answer.status().code(), StatusCode::kInvalid);
  EXPECT_TRUE(closes(socket.get(), 1s));
  Lease held = lease(server, 1, 100);
  EXPECT_FALSE(control::round_trip(held.connection.get(), Opcode::kReserve, {}, deadline_in(5s)).ok())
      << "one lease each";
  EXPECT_TRUE(eventually(1s, [&] { return list(server).gpus[0].leases == 0; }));
}

}  // namespace
}  // namespace bf::test
