// Tokens, TLS and limits as people meet them: a server that is not --dev. Attacks on it: attacks_test.cc.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/unit/tools/pool_fixture.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using control::deadline_in;

TEST_F(Pool, WithoutATokenNothingIsTold) {
  for (auto words : std::vector<std::vector<std::string>>{{"bf", "list"}, {"bf", "health"}, {"bf", "leases"}}) {
    auto done = with("", words);
    EXPECT_EQ(done.status, 1);
    EXPECT_EQ(done.out.find("Fake"), std::string::npos) << done.out;
    EXPECT_NE(done.err.find("authentication required"), std::string::npos) << done.err;
  }
  EXPECT_EQ(with("", {"bfrun", "-m", "100", "true"}).status, 125);
  for (Opcode opcode : {Opcode::kPing, Opcode::kReserve, Opcode::kHold, Opcode::kManage, Opcode::kBandwidth, Opcode::kAuthenticate, Opcode::kLease, Opcode::kSettle}) {
    Fd socket = dial(server_->tcp());
    auto answer = control::exchange(socket.get(), opcode, {}, deadline_in(5s));
    EXPECT_EQ(answer.status().code(), StatusCode::kDenied) << int(opcode);
    EXPECT_EQ(answer.status().message(), "authentication required") << int(opcode);
  }
}

TEST_F(Pool, ATokenOpensIt) {
  std::string alice = token_file("alice");
  auto listed = with(alice, {"bf", "list"});
  EXPECT_EQ(listed.status, 0) << listed.err;
  EXPECT_NE(listed.out.find("Fake GPU"), std::string::npos);
  // All that it sends is encrypted: with sanitizers for as long as other tools have in all.
  EXPECT_EQ(finish(start_tool({"bf", "netperf", server_->address()}, {"BF_TOKEN_FILE=" + alice}), 100s).status, 0) << "over TLS";
  auto run = with(alice, {"bfrun", "-m", "100", "sh", "-c", "echo $BF_ENCRYPT ${#BF_LEASE_SECRET}"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out, "0 64\n") << "no encryption on loopback, by default";
  EXPECT_NE(server_->log().find("for sh"), std::string::npos);
  start({"--encryption", "always"});
  EXPECT_EQ(with(alice, {"bfrun", "-m", "100", "sh", "-c", "echo $BF_ENCRYPT"}).out, "1\n") << "and the token is still known";
}

// "bf token create NAME > FILE" has emptied the file before bf looks into it.
TEST_F(Pool, OnTheServerItselfNoTokenIsLookedAt) {
  const std::string empty = folder_ + "/empty";
  std::ofstream(empty).close();
  auto made = run_tool({"bf", "token", "create", "boss", "--admin", "--server", server_->unix_socket().to_string()}, {"BF_TOKEN_FILE=" + empty});
  EXPECT_EQ(made.status, 0) << made.err;
  EXPECT_NE(made.out.find("backfield1."), std::string::npos);
}

TEST_F(Pool, TokensAreDisabledRotatedAndExpire) {
  std::string alice = token_file("alice"), brief = token_file("brief", {"--expires", "1s"});
  EXPECT_EQ(admin({"token", "create", "alice"}).status, 1) << "there is one";
  EXPECT_EQ(admin({"token", "disable", "alice"}).status, 0);
  EXPECT_NE(with(alice, {"bf", "list"}).err.find("the token 'alice' is disabled"), std::string::npos);
  EXPECT_EQ(admin({"token", "enable", "alice"}).status, 0);
  EXPECT_EQ(with(alice, {"bf", "list"}).status, 0);
  auto fresh = admin({"token", "rotate", "alice"});
  EXPECT_EQ(fresh.status, 0) << fresh.err;
  EXPECT_NE(with(alice, {"bf", "list"}).err.find("not valid here"), std::string::npos);
  std::ofstream(alice) << fresh.out;
  EXPECT_EQ(with(alice, {"bf", "list"}).status, 0);
  std::this_thread::sleep_for(1100ms);
  EXPECT_NE(with(brief, {"bf", "list"}).err.find("the token 'brief' expired on "), std::string::npos);
  auto listed = admin({"token", "list"});
  for (auto word : {"alice", "brief", "expired", "valid"}) EXPECT_NE(listed.out.find(word), std::string::npos) << listed.out;
  EXPECT_EQ(admin({"token", "remove", "brief"}).status, 0);
  EXPECT_EQ(admin({"token", "remove", "brief"}).status, 1);
  std::ofstream(alice) << "not a token";
  EXPECT_NE(with(alice, {"bf", "list"}).err.find("holds no token"), std::string::npos);
}

TEST_F(Pool, AnotherPoolIsNotBelieved) {
  std::string alice = token_file("alice");
  std::string other = folder_ + "/other";
  Server impostor({.arguments = {"--state-dir", other}, .dev = false});
  ASSERT_TRUE(impostor.ready()) << impostor.log();
  auto done = run_tool({"bf", "list", "--server", impostor.address()}, {"BF_TOKEN_FILE=" + alice});
  EXPECT_EQ(done.status, 1);
  EXPECT_NE(done.err.find("not of the pool that the token is for"), std::string::npos) << done.err;
  EXPECT_EQ(impostor.log().find("token"), std::string::npos) << "it never saw the token";
}

TEST_F(Pool, GuessesAreSlowedDown) {
  std::string mallory = token_file("alice");
  std::string text((std::istreambuf_iterator<char>(std::ifstream(mallory).rdbuf())), {});
  size_t at = text.rfind("backfield1.") + 11 + 17;
  text[at] = text[at] == '0' ? '1' : '0';  // of the secret
  std::ofstream(mallory) << text;
  bool slowed = false;
  for (int i = 0; i < 8 && !slowed; i++)
    slowed = with(mallory, {"bf", "list"}).err.find("too many wrong tokens") != std::string::npos;
  EXPECT_TRUE(slowed);
  std::ifstream audit(folder_ + "/state/audit.log");
  std::string lines((std::istreambuf_iterator<char>(audit)), {});
  EXPECT_NE(lines.find("authentication-failed"), std::string::npos);
}

TEST_F(Pool, OneClientCannotTouchAnothers) {
  std::string alice = token_file("alice"), bob = token_file("bob"), boss = token_file("boss", {"--admin"});
  auto made = with(alice, {"bf", "request", "-m", "100"});
  ASSERT_EQ(made.status, 0) << made.err;
  std::string lease = made.out.substr(0, 16);
  EXPECT_EQ(with(bob, {"bf", "client", "--lease", lease, "--", "true"}).status, 125);
  EXPECT_EQ(with(bob, {"bf", "release", lease}).status, 1);
  EXPECT_NE(with(bob, {"bf", "kill", lease}).err.find("for administrators"), std::string::npos);
  EXPECT_NE(run_tool({"bf", "token", "list", "--server", server_->address()}, {"BF_TOKEN_FILE=" + bob}).err.find("for administrators"), std::string::npos);
  EXPECT_EQ(run_tool({"bf", "drain", server_->address()}, {"BF_TOKEN_FILE=" + bob}).status, 1);
  EXPECT_EQ(with(bob, {"bf", "leases"}).out.find(lease), std::string::npos);
  EXPECT_NE(with(alice, {"bf", "leases"}).out.find(lease), std::string::npos);
  EXPECT_NE(with(boss, {"bf", "leases"}).out.find("alice"), std::string::npos);
  EXPECT_EQ(with(alice, {"bf", "client", "--lease", lease, "--", "true"}).status, 0);
  EXPECT_EQ(with(boss, {"bf", "kill", lease}).status, 0);
  auto past = with(alice, {"bf", "history", "--json"});
  EXPECT_NE(past.out.find("an administrator ended it"), std::string::npos) << past.out << past.err;
}

// Several notices may come in one piece, which the socket announces once.
TEST_F(Pool, LostWorkersAreToldOverTls) {
  std::string alice = token_file("alice");
  std::vector<std::string> words = {"bfrun", "--server", server_->address(), "-m", "500"};
  std::ranges::copy(reveal_lease("sleep 3"), std::back_inserter(words));
  auto started = start_tool(words, {"BF_TOKEN_FILE=" + alice});
  auto lease = revealed_lease(started);
  std::vector<Session> sessions;
  for (int i = 0; i < 4; i++) sessions.push_back(attach(*server_, lease, "die"));
  kill(started.pid, SIGSTOP);
  for (auto& session : sessions) {
    ASSERT_TRUE(session.status.ok()) << session.status.message();
    ASSERT_EQ(write(session.socket.get(), "x", 1), 1);
    EXPECT_TRUE(closes(session.socket.get(), 5s));
  }
  kill(started.pid, SIGCONT);
  for (int i = 0; i < 4; i++) EXPECT_NE(next_line(started.err).find("lost the worker of die"), std::string::npos) << i;
  auto done = finish(started, 10s);
  EXPECT_EQ(done.err, "");
  EXPECT_EQ(done.status, 0);
}

TEST_F(Pool, LimitsAreEnforcedWithTheirArithmetic) {
  std::string alice = token_file("alice", {"--group", "lab"});
  ASSERT_EQ(admin({"limit", "set", "client", "--gpus", "1.25"}).status, 0);
  ASSERT_EQ(admin({"limit", "set", "nonsense", "--gpus", "1"}).status, 1);
  auto first = with(alice, {"bf", "request", "-p", "0.75"});
  ASSERT_EQ(first.status, 0) << first.err;
  auto second = with(alice, {"bf", "request", "-p", "0.75", "--timeout", "0"});
  EXPECT_EQ(second.status, 75);
  EXPECT_NE(second.err.find("is 1.25 GPUs: 0.75 = 0.75 are taken, and 0.75 more would make 1.5"), std::string::npos) << second.err;
  auto never = with(alice, {"bf", "request", "-n", "2"});
  EXPECT_EQ(never.status, 125);
  EXPECT_NE(never.err.find("this request alone is 1 + 1"), std::string::npos) << never.err;
  ASSERT_EQ(admin({"limit", "set", "client:alice", "--gpus", "2"}).status, 0);
  EXPECT_EQ(with(alice, {"bf", "request", "-p", "0.75", "--timeout", "0"}).status, 0) << "her own limit counts";
  ASSERT_EQ(admin({"limit", "set", "group:lab", "--leases", "2"}).status, 0);
  EXPECT_NE(with(alice, {"bf", "request", "-p", "0.1", "--timeout", "0"}).err.find("group 'lab' is 2 leases"), std::string::npos);
  EXPECT_NE(admin({"limit", "list"}).out.find("group:lab"), std::string::npos);
}

TEST_F(Pool, WhatDoesNotFitIsRefusedAndNotCut) {
  const std::string fits(control::kNameBytes - 7, 'x'), longer = fits + "x";  // behind "client:"
  EXPECT_EQ(admin({"limit", "set", "client:" + fits, "--gpus", "1"}).status, 0);
  auto cut = admin({"limit", "set", "client:" + longer, "--gpus", "2"});
  EXPECT_EQ(cut.status, 1);
  EXPECT_NE(cut.err.find("'client:xxx"), std::string::npos) << cut.err;
  EXPECT_NE(cut.err.find("256 bytes"), std::string::npos) << cut.err;
  EXPECT_EQ(admin({"limit", "set", "client:\xff", "--gpus", "3"}).status, 1) << "would arrive as another name";
  EXPECT_EQ(admin({"limit", "remove", "client:" + longer}).status, 1);
  auto listed = nlohmann::json::parse(admin({"limit", "list", "--json"}).out)["limits"];
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0]["gpus"], 1) << "nobody else's limit was touched";
  auto name = admin({"token", "create", std::string(65, 'x')});
  EXPECT_EQ(name.status, 1);
  EXPECT_NE(name.err.find("1 to 64 bytes, and this one has 65"), std::string::npos) << name.err;
}

TEST_F(Pool, ADrainedServerLendsNothingNew) {
  std::string boss = token_file("boss", {"--admin"});
  auto held = with(boss, {"bf", "request", "-m", "100"});
  ASSERT_EQ(held.status, 0);
  ASSERT_EQ(run_tool({"bf", "drain", server_->address(), "--deadline", "2"}, {"BF_TOKEN_FILE=" + boss}).status, 0);
  auto busy = with(boss, {"bfrun", "-m", "100", "--timeout", "0", "true"});
  EXPECT_EQ(busy.status, 75);
  EXPECT_NE(busy.err.find("takes no new leases"), std::string::npos) << busy.err;
  EXPECT_NE(with(boss, {"bf", "leases"}).out.find(held.out.substr(0, 16)), std::string::npos);
  EXPECT_TRUE(eventually(5s, [&] { return with(boss, {"bf", "leases", "--json"}).out.find("\"id\"") == std::string::npos; }));
  ASSERT_EQ(run_tool({"bf", "undrain", server_->address()}, {"BF_TOKEN_FILE=" + boss}).status, 0);
  EXPECT_EQ(with(boss, {"bfrun", "-m", "100", "--timeout", "0", "true"}).status, 0);
}

TEST_F(Pool, ABackupMakesASecondServer) {
  std::string alice = token_file("alice");
  ASSERT_EQ(admin({"backup", folder_ + "/backup.json"}).status, 0);
  std::string command = BF_BUILD "/bin/bfserver --state-dir " + folder_ + "/second --restore " + folder_ + "/backup.json";
  ASSERT_EQ(system(command.c_str()), 0);
  Server second({.arguments = {"--state-dir", folder_ + "/second"}, .dev = false});
  ASSERT_TRUE(second.ready()) << second.log();
  auto done = run_tool({"bf", "list", "--server", server_->address(), "--server", second.address()}, {"BF_TOKEN_FILE=" + alice});
  EXPECT_EQ(done.status, 0) << done.err;
  EXPECT_NE(done.out.find(second.address()), std::string::npos) << "one token for both";
}

TEST_F(Pool, SlowAndOversizedHandshakesAreEnded) {
  Fd slow = dial(server_->tcp()), large = dial(server_->tcp());
  const char record[] = "\x16\x03\x01\x40\x00";
  ASSERT_EQ(send(slow.get(), record, 5, 0), 5);
  std::string much = std::string("\x16\x03\x01\xff\xff", 5) + std::string(70'000, 'x');
  (void)!send(large.get(), much.data(), much.size(), MSG_NOSIGNAL);
  EXPECT_TRUE(closes(large.get(), 2s)) << "no record is that long";
  std::string alice = token_file("alice");
  EXPECT_EQ(with(alice, {"bf", "list"}).status, 0) << "others are served meanwhile";
  EXPECT_TRUE(closes(slow.get(), 15s));
}

TEST(PoolStart, SecretsMustBeSafe) {
  std::string open = testing::TempDir() + "open-state-XXXXXX";
  ASSERT_NE(mkdtemp(open.data()), nullptr);
  chmod(open.c_str(), 0755);
  Server server({.arguments = {"--state-dir", open}, .dev = false});
  EXPECT_FALSE(server.ready());
  EXPECT_NE(server.log().find("chmod 700"), std::string::npos) << server.log();
  Server half({.arguments = {"--state-dir", open + "/own", "--tls-key", "/nonexistent"}, .dev = false});
  EXPECT_FALSE(half.ready());
  EXPECT_NE(half.log().find("belong together"), std::string::npos) << half.log();
  [[maybe_unused]] int done = system(("rm -r " + open).c_str());
}

TEST(PoolStart, ADevServerNeedsNoCeremonyEvenWithATokenAround) {
  std::string folder = testing::TempDir() + "dev-token-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/token") << "backfield1.0123456789abcdef." << std::string(64, 'a') << "." << std::string(64, 'b') << "\n";
  Server dev;
  ASSERT_TRUE(dev.ready()) << dev.log();
  auto done = run_tool({"bf", "list", "--server", dev.address()}, {"BF_TOKEN_FILE=" + folder + "/token"});
  EXPECT_EQ(done.status, 0) << done.err;
  [[maybe_unused]] int gone = system(("rm -r " + folder).c_str());
}

}  // namespace
}  // namespace bf::test
