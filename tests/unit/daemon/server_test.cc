// What clients see of bfserver: inventory, leases, sessions.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "tests/unit/daemon/test_server.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using control::deadline_in;

uint32_t code(StatusCode code) { return uint32_t(code); }

TEST(Server, ListsWhatItHas) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  auto reply = list(server);
  EXPECT_TRUE(reply.software);
  EXPECT_FALSE(reply.draining);
  EXPECT_EQ(reply.driver_version, 13000u);
  EXPECT_EQ(reply.transports, (std::vector<std::string>{"tcp", "shm"}));
  ASSERT_EQ(reply.gpus.size(), 2u);
  EXPECT_EQ(reply.gpus[1].index, 1u);
  EXPECT_EQ(reply.gpus[1].memory_bytes, 1024 * kMiB);
  EXPECT_EQ(reply.gpus[1].free_bytes, 1024 * kMiB);
  Fd local = dial(server.unix_socket());
  EXPECT_TRUE(control::round_trip(local.get(), Opcode::kList, {}, deadline_in(5s)).ok());
}

TEST(Server, LeasesEndWithTheirConnection) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease first = lease(server, 1, 600);
  ASSERT_EQ(first.reply.status, 0u) << first.reply.message;
  ASSERT_EQ(first.reply.partitions.size(), 1u);
  EXPECT_EQ(first.reply.partitions[0].memory_bytes, 600 * kMiB);
  EXPECT_EQ(first.reply.secret.size(), control::kSecretBytes);
  EXPECT_EQ(free_mib(server), 424u);
  Lease both = lease(server, 2, 424);
  EXPECT_EQ(both.reply.status, 0u);
  EXPECT_EQ(both.reply.partitions.size(), 2u);
  EXPECT_EQ(lease(server, 2, 424).reply.status, code(StatusCode::kExhausted));
  EXPECT_EQ(lease(server, 3, 100).reply.status, code(StatusCode::kImpossible));
  EXPECT_EQ(lease(server, 0, 100).reply.status, code(StatusCode::kInvalid));
  EXPECT_EQ(list(server).gpus[0].leases, 2u);
  first.connection.reset();
  both.connection.reset();
  EXPECT_TRUE(eventually(1s, [&] { return free_mib(server) == 1024 && free_mib(server, 1) == 1024; }));
}

// Warm workers hold memory too, and give way.
TEST(Server, PartitionsThatAddUpToTheCardAreAllGranted) {
  Server server({.arguments = {"--warm-workers", "3"}, .gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  ASSERT_TRUE(eventually(2s, [&] { return server.workers().size() == 3; }));
  std::vector<Lease> leases;
  for (int i = 0; i < 4; i++) {
    leases.push_back(lease(server, 1, 256));
    ASSERT_EQ(leases.back().reply.status, 0u) << i << leases.back().reply.message;
  }
  EXPECT_EQ(lease(server, 1, 100).reply.status, code(StatusCode::kExhausted));
  EXPECT_TRUE(eventually(1s, [&] { return server.workers().size() <= 4; }))
      << "only those set aside for a lease are left";
  leases.clear();
  EXPECT_TRUE(eventually(2s, [&] { return server.workers().size() == 3; })) << "and come back";
  EXPECT_EQ(lease(server, 1, 0).reply.status, 0u) << "the whole card";
}

TEST(Server, SessionsGetAWorker) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  for (bool local : {false, true}) {
    Session session = attach(server, held.reply, "echo", local);
    ASSERT_EQ(session.status.code(), StatusCode::kOk) << session.status.message();
    EXPECT_TRUE(echoes(session));
    EXPECT_EQ(session.admission.reply.channels, local ? 0u : limits::kTcpChannels);
    EXPECT_EQ(list(server).sessions, 1u);
    session.socket.reset();
    EXPECT_TRUE(eventually(1s, [&] { return list(server).sessions == 0; }));
  }
  Lease wide = lease(server, 2, 256);
  Session session = attach(server, wide.reply, "echo");
  EXPECT_TRUE(echoes(session));
}

TEST(Server, WarmWorkersServeFirst) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  ASSERT_TRUE(eventually(2s, [&] { return server.workers().size() == 1; }));
  pid_t warm = server.workers()[0];
  Lease held = lease(server, 1, 512);
  Session session = attach(server, held.reply, "echo");
  EXPECT_TRUE(echoes(session));
  // The warm worker serves, and another one takes its place.
  EXPECT_TRUE(eventually(2s, [&] { return server.workers().size() == 2; }));
  session.socket.reset();
  EXPECT_TRUE(eventually(2s, [&] {
    auto pids = server.workers();
    return std::find(pids.begin(), pids.end(), warm) == pids.end();
  }));
}

TEST(Server, WorkersSeeTheLeasedGpusAndACleanEnvironment) {
  Server server(
      {.environment = {"LD_PRELOAD=", "LD_LIBRARY_PATH=/somewhere", "CUDA_VISIBLE_DEVICES=none", "BF_LOG=debug"}});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease wide = lease(server, 2, 256);
  Session session = attach(server, wide.reply, "echo");
  ASSERT_TRUE(echoes(session));
  bool found = false;
  for (pid_t pid : server.workers()) {
    std::stringstream text;
    text << std::ifstream("/proc/" + std::to_string(pid) + "/environ").rdbuf();
    std::string environment = text.str();
    EXPECT_EQ(environment.find("LD_"), std::string::npos);
    EXPECT_NE(environment.find("BF_SOFTGPU_COUNT=2"), std::string::npos);
    EXPECT_NE(environment.find("BF_LOG=debug"), std::string::npos);
    auto& gpus = wide.reply.partitions;
    found |= environment.find("CUDA_VISIBLE_DEVICES=" + gpus[0].uuid + "," + gpus[1].uuid) != std::string::npos;
  }
  EXPECT_TRUE(found);
}

TEST(Server, AttachNeedsTheSecret) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  control::LeaseReply forged = held.reply;
  forged.secret[31] ^= 1;
  EXPECT_EQ(attach(server, forged, "echo").status.code(), StatusCode::kDenied);
  forged.secret.clear();
  EXPECT_EQ(attach(server, forged, "echo").status.code(), StatusCode::kDenied);
  forged.lease_id = "nonsense";
  EXPECT_EQ(attach(server, forged, "echo").status.code(), StatusCode::kDenied);
  held.connection.reset();
  ASSERT_TRUE(eventually(1s, [&] { return list(server).gpus[0].leases + list(server).gpus[1].leases == 0; }));
  EXPECT_EQ(attach(server, held.reply, "echo").status.code(), StatusCode::kDenied) << "the lease is over";
}

TEST(Server, ChannelsJoinOnceEachWithTheSecret) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  Session session = attach(server, held.reply, "echo");
  ASSERT_EQ(session.admission.reply.channels, limits::kTcpChannels);
  Fd sockets[limits::kTcpChannels], another;
  for (uint32_t i = 0; i < limits::kTcpChannels; i++) EXPECT_EQ(join(server, session, i, &sockets[i]).code(), StatusCode::kOk) << i;
  EXPECT_EQ(join(server, session, 4, &another).code(), StatusCode::kInvalid) << "taken";
  EXPECT_EQ(join(server, session, limits::kTcpChannels, &another).code(), StatusCode::kInvalid) << "too many";
  Session forged;
  forged.admission = session.admission;
  forged.admission.session_key[0] ^= 1;
  EXPECT_EQ(join(server, forged, 0, &another).code(), StatusCode::kDenied);
  session.socket.reset();
  EXPECT_TRUE(closes(sockets[0].get(), 2s)) << "channels end with the session";
}

TEST(Server, RefusesWhatDoesNotFit) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  control::AttachRequest request;
  request.protocol = control::kProtocolVersion + 1;
  request.lease_id = held.reply.lease_id;
  request.transport = "tcp";
  auto attached = [&](const transport::Address& address) {
    Fd socket = dial(address);
    auto session = control::attach(socket.get(), request, held.reply.secret, deadline_in(5s));
    EXPECT_TRUE(closes(socket.get(), 1s));
    return session.status().code();
  };
  EXPECT_EQ(attached(server.tcp()), StatusCode::kInvalid) << "another protocol";
  request.protocol = control::kProtocolVersion;
  EXPECT_EQ(attached(server.unix_socket()), StatusCode::kInvalid) << "tcp over the Unix socket";
  request.transport = "shm";
  EXPECT_EQ(attached(server.tcp()), StatusCode::kInvalid) << "shm over TCP";
  request.transport = "pigeon";
  EXPECT_EQ(attached(server.tcp()), StatusCode::kInvalid);
}

TEST(Server, AnswersPingBandwidthAndHealth) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Fd socket = dial(server.tcp());
  std::string payload(limits::kInlineBytes, 'p');
  ASSERT_TRUE(control::send_frame(socket.get(), Opcode::kPing, 0, {}, payload, deadline_in(5s)).ok());
  auto pong = control::receive_frame(socket.get(), deadline_in(5s));
  ASSERT_TRUE(pong.ok());
  EXPECT_EQ(pong->payload, payload);

  uint64_t wanted = 5 * kMiB + 17, got = 0;
  auto body = control::encode_BandwidthRequest({wanted});
  ASSERT_TRUE(
      control::send_frame(socket.get(), Opcode::kBandwidth, 0, body, std::string(3 * kMiB, 'x'), deadline_in(5s)).ok());
  while (got < wanted) {
    auto frame = control::receive_frame(socket.get(), deadline_in(5s));
    ASSERT_TRUE(frame.ok()) << frame.status().message();
    ASSERT_GT(frame->payload.size(), 0u);
    got += frame->payload.size();
  }
  EXPECT_EQ(got, wanted);

  auto health = control::round_trip(socket.get(), Opcode::kHealth, {}, deadline_in(5s));
  ASSERT_TRUE(health.ok());
  auto checks = control::decode_HealthReply(control::as_bytes(*health));
  ASSERT_TRUE(checks.ok());
  EXPECT_GE(checks->checks.size(), 6u);
  for (auto& check : checks->checks) EXPECT_NE(check.note, "") << check.name;
}

}  // namespace
}  // namespace bf::test
