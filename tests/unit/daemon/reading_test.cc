// Readings: what bfserver says of a lease's GPUs, and what it costs to ask.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "proto/nvml/answers.h"
#include "proto/secrets.h"
#include "tests/unit/daemon/test_server.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using control::deadline_in;

control::ReadingRequest request_of(const control::LeaseReply& lease, uint32_t device = 0) {
  control::ReadingRequest request;
  request.lease_id = lease.lease_id;
  request.proof = secrets::reading_proof(lease.secret);
  request.device = device;
  request.sampled = true;
  return request;
}

control::ReadingReply read_on(int socket, const control::ReadingRequest& request) {
  auto body = control::round_trip(socket, Opcode::kReading, control::encode_ReadingRequest(request), deadline_in(5s));
  EXPECT_TRUE(body.ok()) << body.status().message();
  if (!body.ok()) return {};
  auto reply = control::decode_ReadingReply(control::as_bytes(*body));
  EXPECT_TRUE(reply.ok());
  return reply.ok() ? std::move(*reply) : control::ReadingReply{};
}

control::ReadingReply read(const Server& server, const control::ReadingRequest& request) {
  Fd socket = dial(server.tcp());
  return read_on(socket.get(), request);
}

// The fake monitor's answers: the value of function 1 with the GPU's index and `part` as keys.
std::string value(const std::string& encoded, uint32_t gpu, uint32_t part) {
  nvml::Answers answers;
  EXPECT_TRUE(answers.merge(encoded).ok());
  const nvml::Answer* answer = answers.find(1, {gpu, part, 0, 0});
  return answer != nullptr ? answer->value : "nothing";
}

TEST(Reading, TellsTheLeaseWhatItHas) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 2, 512);
  Session session = attach(server, held.reply, "charge");
  char charged = 0;
  ASSERT_EQ(::read(session.socket.get(), &charged, 1), 1);
  auto reply = read(server, request_of(held.reply, 0));
  EXPECT_EQ(reply.status, 0u) << reply.message;
  EXPECT_EQ(reply.devices, 2u);
  EXPECT_EQ(reply.memory_bytes, 512 * kMiB);
  EXPECT_EQ(reply.used_bytes, 64 * kMiB);
  ASSERT_EQ(reply.processes.size(), 1u);
  EXPECT_EQ(reply.processes[0].pid, uint32_t(getpid()));
  EXPECT_EQ(reply.processes[0].name, "charge");
  EXPECT_EQ(reply.processes[0].used_bytes, 64 * kMiB);
  EXPECT_EQ(reply.uuid, held.reply.partitions[0].uuid);
  uint32_t gpu = held.reply.partitions[0].gpu_index;
  EXPECT_EQ(reply.gpu_index, gpu);
  EXPECT_EQ(value(reply.facts, gpu, 0), "fact");
  auto other = read(server, request_of(held.reply, 1));
  EXPECT_EQ(other.used_bytes, 0u) << "the other device is untouched";
  EXPECT_TRUE(other.processes.empty());
}

TEST(Reading, OthersAreInvisible) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease mine = lease(server, 2, 256), theirs = lease(server, 2, 256);
  Session session = attach(server, theirs.reply, "charge");
  char charged = 0;
  ASSERT_EQ(::read(session.socket.get(), &charged, 1), 1);
  auto reply = read(server, request_of(mine.reply));
  EXPECT_EQ(reply.used_bytes, 0u);
  EXPECT_TRUE(reply.processes.empty());
}

TEST(Reading, IsForTheLeaseOnly) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  auto request = request_of(held.reply);
  request.proof[0] = char(request.proof[0] ^ 1);
  auto reply = read(server, request);
  EXPECT_EQ(reply.status, uint32_t(StatusCode::kDenied));
  EXPECT_TRUE(reply.facts.empty() && reply.uuid.empty());
  reply = read(server, request_of(held.reply, 1));
  EXPECT_EQ(reply.status, uint32_t(StatusCode::kInvalid)) << "it has one device";
}

TEST(Reading, WhatTheClientHasIsNotSentAgain) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  auto request = request_of(held.reply);
  auto first = read(server, request);
  ASSERT_NE(first.facts_version, 0u);
  EXPECT_FALSE(first.facts.empty() || first.sample.empty());
  request.facts_seen = first.facts_version;
  request.sample_seen = first.sample_version;
  request.sampled = false;
  auto second = read(server, request);
  EXPECT_TRUE(second.facts.empty() && second.sample.empty() && second.system.empty());
  EXPECT_EQ(second.facts_version, first.facts_version);
}

// A crowd costs one sample per second.
TEST(Reading, SamplesAreShared) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  auto begin = std::chrono::steady_clock::now();
  std::vector<Fd> sockets;
  for (int i = 0; i < 50; i++) sockets.push_back(dial(server.tcp()));
  std::string last;
  while (std::chrono::steady_clock::now() - begin < 2500ms)
    for (auto& socket : sockets) last = value(read_on(socket.get(), request_of(held.reply)).sample, 0, 1);
  EXPECT_GE(std::stoi(last), 2) << "they are renewed";
  EXPECT_LE(std::stoi(last), 4) << "but not more than once a second";
}

TEST(Reading, SurvivesItsMonitor) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  ASSERT_EQ(value(read(server, request_of(held.reply)).facts, 0, 0), "fact");
  std::ifstream children("/proc/" + std::to_string(server.pid()) + "/task/" + std::to_string(server.pid()) +
                         "/children");
  auto workers = server.workers();
  pid_t monitor = 0;
  for (pid_t pid; children >> pid;)
    if (std::find(workers.begin(), workers.end(), pid) == workers.end()) monitor = pid;
  ASSERT_GT(monitor, 0);
  kill(monitor, SIGKILL);
  std::this_thread::sleep_for(1100ms);  // the last sample is old
  EXPECT_EQ(value(read(server, request_of(held.reply)).facts, 0, 0), "fact") << "what was known stays known";
  EXPECT_TRUE(eventually(5s, [&] { return value(read(server, request_of(held.reply)).sample, 0, 1) == "1"; }))
      << "a new monitor counts from 1";
}

TEST(Reading, WithoutAMonitorTheBooksStillAnswer) {
  Server server({.environment = {"BF_SOFTGPU_FAULTS=monitor"}, .gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  auto begin = std::chrono::steady_clock::now();
  auto reply = read(server, request_of(held.reply));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 3s);
  EXPECT_EQ(reply.status, 0u);
  EXPECT_EQ(reply.memory_bytes, 512 * kMiB);
  EXPECT_EQ(reply.facts_version, 0u);
}

// A connection whose answer is being made is not read: it cannot pile up questions.
TEST(Reading, PipelinedQuestionsAreAnsweredInOrder) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  Fd socket = dial(server.tcp());
  for (int i = 0; i < 20; i++)
    ASSERT_TRUE(control::send_frame(socket.get(), Opcode::kReading, 0,
                                    control::encode_ReadingRequest(request_of(held.reply)), {}, deadline_in(5s))
                    .ok());
  for (int i = 0; i < 20; i++) {
    auto frame = control::receive_frame(socket.get(), deadline_in(5s));
    ASSERT_TRUE(frame.ok()) << frame.status().message();
    EXPECT_EQ(frame->opcode, Opcode::kReading);
  }
}

}  // namespace
}  // namespace bf::test
