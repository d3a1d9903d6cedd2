// Leases as clients see them: two phases, detached leases, limits in time, and who may do what.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "tests/unit/daemon/test_server.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using control::deadline_in;

control::LeaseRequest request(uint32_t gpus, uint64_t mib, bool detached = false) {
  control::LeaseRequest request;
  request.gpus = gpus;
  request.memory_bytes = mib * kMiB;
  request.detached = detached;
  request.program = "test";
  return request;
}

control::LeaseReply hold(int connection, const std::string& id) {
  auto body = control::round_trip(connection, Opcode::kHold, control::encode_HoldRequest({id}), deadline_in(5s));
  EXPECT_TRUE(body.ok()) << body.status().message();
  auto reply = control::decode_LeaseReply(control::as_bytes(*body));
  EXPECT_TRUE(reply.ok());
  return *reply;
}

Status manage(const Server& server, std::vector<std::string> words, nlohmann::json* answer) {
  Fd socket = dial(server.tcp());
  auto frame = control::exchange(socket.get(), Opcode::kManage, control::encode_ManageRequest({words}), deadline_in(5s));
  EXPECT_TRUE(frame.ok()) << frame.status().message();
  auto reply = control::decode_ManageReply(control::as_bytes(frame->body));
  EXPECT_TRUE(reply.ok());
  if (!frame->payload.empty()) *answer = nlohmann::json::parse(frame->payload);
  return control::to_status(reply->status, reply->message);
}

// The reason the server gives before it closes the connection of a lease.
std::string last_words(int connection) {
  auto frame = control::receive_frame(connection, deadline_in(5s));
  if (!frame.ok() || frame->opcode != Opcode::kError) return "nothing: " + frame.status().message();
  auto error = control::decode_ErrorReply(control::as_bytes(frame->body));
  return error.ok() ? error->message : "";
}

// What those who keep a lease hear next of a session that was lost.
control::SessionLost next_loss(int connection) {
  auto frame = control::receive_frame(connection, deadline_in(5s));
  EXPECT_TRUE(frame.ok()) << frame.status().message();
  if (!frame.ok() || frame->opcode != Opcode::kSessionLost || frame->flags != 0) return {.program = {}, .why = "something else"};
  auto lost = control::decode_SessionLost(control::as_bytes(frame->body));
  return lost.ok() ? *lost : control::SessionLost{.program = {}, .why = "nonsense"};
}
// Waits until no session of the lease is left. False if something else is said before.
bool settles(int connection) {
  return control::round_trip(connection, Opcode::kSettle, {}, deadline_in(5s)).ok();
}

TEST(Reservation, HoldsTheMemoryUntilItIsCommittedOrOver) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Fd first = dial(server.tcp()), second = dial(server.tcp());
  auto reserved = reserve(first.get(), request(1, 600));
  ASSERT_EQ(reserved.status, 0u) << reserved.message;
  EXPECT_EQ(reserve(second.get(), request(1, 600)).status, uint32_t(StatusCode::kExhausted));
  auto body = control::round_trip(second.get(), Opcode::kLease, control::encode_CommitRequest({reserved.reservation_id}),
                                  deadline_in(5s));
  ASSERT_TRUE(body.ok());
  EXPECT_EQ(control::decode_LeaseReply(control::as_bytes(*body))->status, uint32_t(StatusCode::kDenied))
      << "a reservation is the connection's own";
  first.reset();
  EXPECT_TRUE(eventually(1s, [&] { return free_mib(server) == 1024; })) << "gone with its connection";
  Fd late = dial(server.tcp());
  EXPECT_EQ(reserve(late.get(), request(1, 600)).status, uint32_t(StatusCode::kExhausted)) << "another waits longer";
  second.reset();
  late.reset();
  Fd third = dial(server.tcp());
  ASSERT_EQ(reserve(third.get(), request(1, 600)).status, 0u);
  EXPECT_TRUE(eventually(8s, [&] { return free_mib(server) == 1024; })) << "over after its time";
}

TEST(DetachedLease, OutlivesItsConnectionAndIsShared) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Fd asking = dial(server.tcp());
  auto lease = take_lease(asking.get(), request(1, 600, true));
  ASSERT_EQ(lease.status, 0u) << lease.message;
  asking.reset();
  Fd one = dial(server.tcp()), two = dial(server.tcp());
  auto held = hold(one.get(), lease.lease_id);
  EXPECT_EQ(held.status, 0u) << held.message;
  EXPECT_EQ(held.secret, lease.secret);
  EXPECT_EQ(held.partitions.size(), 1u);
  EXPECT_EQ(hold(two.get(), lease.lease_id).status, 0u) << "side by side";
  EXPECT_TRUE(echoes(attach(server, held, "echo")));
  one.reset();
  EXPECT_TRUE(echoes(attach(server, held, "echo"))) << "one after another";
  EXPECT_EQ(hold(dial(server.tcp()).get(), "0123456789abcdef").status, uint32_t(StatusCode::kDenied));

  nlohmann::json answer;
  EXPECT_TRUE(manage(server, {"leases"}, &answer).ok());
  ASSERT_EQ(answer["leases"].size(), 1u);
  EXPECT_EQ(answer["leases"][0]["id"], lease.lease_id);
  EXPECT_EQ(answer["leases"][0]["gpus"][0]["memory_mib"], 600);
  EXPECT_TRUE(manage(server, {"release", lease.lease_id}, &answer).ok());
  EXPECT_NE(last_words(two.get()).find("released"), std::string::npos);
  EXPECT_TRUE(eventually(3s, [&] { return free_mib(server) == 1024; }));
  EXPECT_EQ(manage(server, {"release", lease.lease_id}, &answer).code(), StatusCode::kDenied) << "it is gone";
  EXPECT_EQ(manage(server, {"nonsense"}, &answer).code(), StatusCode::kInvalid);
}

TEST(DetachedLease, IsReleasedWhenNobodyUsesIt) {
  Server server({.arguments = {"--auto-release", "1"}, .gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  auto lease = take_lease(dial(server.tcp()).get(), request(1, 600, true));
  ASSERT_EQ(lease.status, 0u);
  Fd user = dial(server.tcp());
  ASSERT_EQ(hold(user.get(), lease.lease_id).status, 0u);
  std::this_thread::sleep_for(2500ms);
  EXPECT_EQ(free_mib(server), 424u) << "somebody holds it";
  user.reset();
  EXPECT_TRUE(eventually(4s, [&] { return free_mib(server) == 1024; }));
}

TEST(Lease, ItsHolderHearsOfEverySessionThatIsLost) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 600);
  const int ear = held.connection.get();
  Session killed = attach(server, held.reply, "die"), refused = attach(server, held.reply, "violate");
  Session other = attach(server, held.reply, "echo");
  ASSERT_EQ(write(killed.socket.get(), "x", 1), 1);
  control::SessionLost lost = next_loss(ear);
  EXPECT_EQ(lost.program, "die");
  EXPECT_EQ(lost.pid, uint32_t(getpid()));
  EXPECT_EQ(lost.why, "killed by signal 9");
  EXPECT_EQ(lost.calls, 0u);
  ASSERT_EQ(write(refused.socket.get(), "x", 1), 1);
  lost = next_loss(ear);
  EXPECT_EQ(lost.program, "violate");
  EXPECT_EQ(lost.why, "the client broke the protocol");
  EXPECT_EQ(lost.calls, 7u);
  EXPECT_TRUE(closes(killed.socket.get(), 2s));
  EXPECT_TRUE(closes(refused.socket.get(), 2s));
  EXPECT_TRUE(echoes(other)) << "the lease goes on";
  EXPECT_TRUE(echoes(attach(server, held.reply, "echo")));
}

TEST(Lease, NothingIsSaidOfASessionThatItsClientLeft) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 600);
  for (auto program : {"echo", "stubborn", "die"}) EXPECT_TRUE(attach(server, held.reply, program).status.ok());
  EXPECT_TRUE(settles(held.connection.get()));
  // Nor when the lease itself ends: that has a word of its own.
  Session session = attach(server, held.reply, "echo");
  nlohmann::json answer;
  EXPECT_TRUE(manage(server, {"kill", held.reply.lease_id}, &answer).ok());
  EXPECT_NE(last_words(held.connection.get()).find("administrator"), std::string::npos);
  EXPECT_TRUE(closes(held.connection.get(), 1s));
}

TEST(Lease, SettlesWithItsLastSession) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 600);
  const int ear = held.connection.get();
  EXPECT_TRUE(settles(ear)) << "it had none";
  EXPECT_TRUE(settles(dial(server.tcp()).get())) << "there is no lease";
  Session one = attach(server, held.reply, "echo"), two = attach(server, held.reply, "linger");
  ASSERT_TRUE(control::send_frame(ear, Opcode::kSettle, 0, {}, {}, deadline_in(5s)).ok());
  one.socket.reset();
  ASSERT_EQ(write(two.socket.get(), "x", 1), 1);
  two.socket.reset();  // half a second before its worker dies
  EXPECT_EQ(next_loss(ear).program, "linger") << "what went wrong is said before";
  auto frame = control::receive_frame(ear, deadline_in(5s));
  ASSERT_TRUE(frame.ok()) << frame.status().message();
  EXPECT_EQ(frame->opcode, Opcode::kSettle);
  EXPECT_EQ(frame->flags, kReply);
}

TEST(DetachedLease, AllItsHoldersHearOfASessionThatIsLost) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Fd asking = dial(server.tcp());
  auto lease = take_lease(asking.get(), request(1, 600, true));
  ASSERT_EQ(lease.status, 0u) << lease.message;
  Session alone = attach(server, lease, "die");
  ASSERT_EQ(write(alone.socket.get(), "x", 1), 1);
  EXPECT_TRUE(closes(alone.socket.get(), 2s)) << "nobody is told";
  Fd one = dial(server.tcp()), two = dial(server.tcp());
  EXPECT_EQ(hold(one.get(), lease.lease_id).status, 0u);
  EXPECT_EQ(hold(two.get(), lease.lease_id).status, 0u);
  Session session = attach(server, lease, "die");
  ASSERT_EQ(write(session.socket.get(), "x", 1), 1);
  for (int ear : {one.get(), two.get()}) EXPECT_EQ(next_loss(ear).program, "die");
}

// It reads nothing, and loses nothing but the news.
TEST(Lease, AHolderThatDoesNotListenKeepsItsLease) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 600);
  for (int i = 0; i < 50; i++) {
    Session session = attach(server, held.reply, "die");
    ASSERT_EQ(write(session.socket.get(), "x", 1), 1);
    ASSERT_TRUE(closes(session.socket.get(), 5s));
  }
  EXPECT_TRUE(echoes(attach(server, held.reply, "echo")));
}

TEST(Lease, EndsAfterItsTime) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Fd connection = dial(server.tcp());
  auto wanted = request(1, 600);
  wanted.ttl_ms = 1000;
  auto lease = take_lease(connection.get(), wanted);
  ASSERT_EQ(lease.status, 0u);
  Session session = attach(server, lease, "echo");
  EXPECT_TRUE(echoes(session));
  EXPECT_NE(last_words(connection.get()).find("its time of 1 s is over"), std::string::npos);
  EXPECT_TRUE(closes(session.socket.get(), 3s));
  EXPECT_TRUE(eventually(3s, [&] { return free_mib(server) == 1024; }));
}

TEST(Lease, IsTakenBackWhenIdle) {
  Server server({.arguments = {"--idle-timeout", "1"}});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease idle = lease(server, 1, 300), busy = lease(server, 1, 300);
  Session quiet = attach(server, idle.reply, "echo"), working = attach(server, busy.reply, "busy");
  EXPECT_NE(last_words(idle.connection.get()).find("idle timeout"), std::string::npos);
  EXPECT_TRUE(closes(quiet.socket.get(), 3s));
  std::this_thread::sleep_for(1500ms);
  EXPECT_TRUE(echoes(working)) << "a call that has not returned is no idleness";
}

TEST(Lease, AnAdministratorCanEndIt) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 300);
  nlohmann::json answer;
  EXPECT_TRUE(manage(server, {"kill", held.reply.lease_id}, &answer).ok());
  EXPECT_NE(last_words(held.connection.get()).find("administrator"), std::string::npos);
  EXPECT_TRUE(closes(held.connection.get(), 1s));
}

}  // namespace
}  // namespace bf::test
