// How things end: clients, workers, leases, the server; and that nothing is left behind.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <sstream>
#include <iterator>
#include <thread>

#include "tests/unit/daemon/test_server.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

bool alive(pid_t pid) { return kill(pid, 0) == 0; }

// The worker that serves the only session: the one that is not warm.
pid_t serving_worker(const Server& server) {
  for (pid_t pid : server.workers()) {
    std::ostringstream line;
    line << std::ifstream("/proc/" + std::to_string(pid) + "/cmdline").rdbuf();
    if (line.str().find("--warm") == std::string::npos) return pid;
  }
  return -1;
}

TEST(Lifecycle, AKilledWorkerEndsItsSessionAndNoOther) {
  Server server({.arguments = {"--warm-workers", "0"}});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  Session victim = attach(server, held.reply, "charge");
  char charged = 0;
  ASSERT_TRUE(control::receive_exactly(victim.socket.get(), &charged, 1, control::deadline_in(5s)).ok());
  EXPECT_EQ(charged, 1);
  pid_t worker = serving_worker(server);
  Session other = attach(server, held.reply, "echo");
  ASSERT_EQ(kill(worker, SIGKILL), 0);
  EXPECT_TRUE(closes(victim.socket.get(), 1s));
  EXPECT_TRUE(echoes(other));
  // Its 64 MiB are no longer charged: eight more fit into 512 MiB only then.
  std::vector<Session> sessions;
  for (int i = 0; i < 8; i++) {
    sessions.push_back(attach(server, held.reply, "charge"));
    ASSERT_TRUE(control::receive_exactly(sessions.back().socket.get(), &charged, 1, control::deadline_in(5s)).ok());
    EXPECT_EQ(charged, 1) << i;
  }
  Session ninth = attach(server, held.reply, "charge");
  ASSERT_TRUE(control::receive_exactly(ninth.socket.get(), &charged, 1, control::deadline_in(5s)).ok());
  EXPECT_EQ(charged, 0);
}

TEST(Lifecycle, ACrashingWorkerIsReaped) {
  Server server({.arguments = {"--warm-workers", "0"}});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  Session session = attach(server, held.reply, "crash");
  EXPECT_TRUE(closes(session.socket.get(), 2s));
  EXPECT_TRUE(eventually(1s, [&] { return server.workers().empty(); }));
}

// The worker notices neither its client's end nor SIGTERM, and is gone within two seconds all the same.
TEST(Lifecycle, AStubbornWorkerIsKilledWithinTwoSeconds) {
  Server server({.arguments = {"--warm-workers", "0"}});
  ASSERT_TRUE(server.ready()) << server.log();
  for (bool local : {false, true}) {
    Lease held = lease(server, 1, 512);
    Session session = attach(server, held.reply, "stubborn", local);
    pid_t worker = serving_worker(server);
    ASSERT_GT(worker, 0);
    auto start = Clock::now();
    session.socket.reset();
    EXPECT_TRUE(eventually(3s, [&] { return !alive(worker); }));
    EXPECT_LT(Clock::now() - start, 2s);
    EXPECT_GT(Clock::now() - start, 900ms) << "it had its time to end";
  }
}

TEST(Lifecycle, MemoryStaysPromisedUntilTheWorkerIsGone) {
  Server server({.arguments = {"--warm-workers", "0"}, .gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 1024);
  Session session = attach(server, held.reply, "stubborn");
  pid_t worker = serving_worker(server);
  ASSERT_GT(worker, 0);
  held.connection.reset();
  bool promised_to_the_end = true;
  EXPECT_TRUE(eventually(3s, [&] {
    bool free = list(server).gpus[0].free_bytes > 0;
    promised_to_the_end &= !(free && alive(worker));
    return free;
  }));
  EXPECT_TRUE(promised_to_the_end);
  EXPECT_TRUE(closes(session.socket.get(), 1s));
}

TEST(Lifecycle, AKilledClientFreesItsLeaseWithinTwoSeconds) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  pid_t client = fork();
  if (client == 0) {
    Lease held = lease(server, 1, 1000);
    Session session = attach(server, held.reply, "echo");
    [[maybe_unused]] ssize_t written = write(ends[1], "x", 1);
    for (;;) pause();
  }
  char byte;
  ASSERT_EQ(read(ends[0], &byte, 1), 1);
  close(ends[0]);
  close(ends[1]);
  EXPECT_EQ(list(server).sessions, 1u);
  kill(client, SIGKILL);
  EXPECT_EQ(waitpid(client, nullptr, 0), client);
  EXPECT_TRUE(eventually(2s, [&] {
    auto reply = list(server);
    return reply.sessions == 0 && reply.gpus[0].leases + reply.gpus[1].leases == 0;
  }));
}

TEST(Lifecycle, WorkersThatFailToWarmUpAreNotStartedInALoop) {
  Server server({.environment = {"BF_SOFTGPU_FAULTS=warm"}, .gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  std::this_thread::sleep_for(1500ms);
  std::string log = server.log();
  size_t started = 0;
  for (size_t at = 0; (at = log.find("started on", at)) != std::string::npos; at++) started++;
  EXPECT_GE(started, 1u);
  EXPECT_LE(started, 2u) << log;
  Lease held = lease(server, 1, 512);
  Session session = attach(server, held.reply, "echo");
  EXPECT_EQ(session.status.code(), StatusCode::kOk) << "a cold worker serves";
}

TEST(Lifecycle, SigtermDrains) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  Session session = attach(server, held.reply, "echo");
  server.signal(SIGTERM);
  EXPECT_TRUE(eventually(1s, [&] { return !transport::dial(server.tcp(), 1s).ok(); })) << "nobody new comes in";
  EXPECT_TRUE(echoes(session)) << "who is there goes on";
  EXPECT_EQ(server.wait(300ms), -1);
  session.socket.reset();
  EXPECT_EQ(server.wait(2s), 0);
}

TEST(Lifecycle, TheDrainIsBounded) {
  Server server({.arguments = {"--drain-seconds", "1"}});
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  Session session = attach(server, held.reply, "stubborn");
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait(700ms), -1);
  EXPECT_EQ(server.wait(3s), 0);
  EXPECT_TRUE(closes(session.socket.get(), 1s));
}

TEST(Lifecycle, ASecondSigtermEndsAtOnce) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Lease held = lease(server, 1, 512);
  Session session = attach(server, held.reply, "stubborn");
  auto workers = server.workers();
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait(200ms), -1);
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait(1s), 0);
  for (pid_t worker : workers) EXPECT_FALSE(alive(worker));
}

TEST(Lifecycle, SighupReadsTheConfigurationAgain) {
  std::string path = testing::TempDir() + "reload-" + std::to_string(getpid()) + ".toml";
  std::ofstream(path) << "warm-workers = 1\n";
  Server server({.arguments = {"--config", path}, .gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  EXPECT_TRUE(eventually(2s, [&] { return server.workers().size() == 1; }));
  std::ofstream(path) << "warm-workers = 3\n";
  server.signal(SIGHUP);
  EXPECT_TRUE(eventually(2s, [&] { return server.workers().size() == 3; }));
  std::ofstream(path) << "warm-workers = 'broken\n";
  server.signal(SIGHUP);
  EXPECT_TRUE(eventually(2s, [&] { return server.log().find("stays as it was") != std::string::npos; }));
  EXPECT_EQ(server.workers().size(), 3u);
  std::ofstream(path) << "warm-workers = 0\n";
  server.signal(SIGHUP);
  EXPECT_TRUE(eventually(2s, [&] { return server.workers().empty(); }));
  remove(path.c_str());
}

TEST(Lifecycle, SaysWhyItCannotStart) {
  Server broken({.environment = {"BF_SOFTGPU_FAULTS=probe"}});
  EXPECT_FALSE(broken.ready());
  EXPECT_NE(broken.log().find("the driver is on strike"), std::string::npos);
  Server open({.arguments = {"--listen", "0.0.0.0:0"}});
  EXPECT_FALSE(open.ready());
  EXPECT_NE(open.log().find("loopback"), std::string::npos);
  Server missing({.arguments = {"--worker", "/nonexistent"}});
  EXPECT_FALSE(missing.ready());
  EXPECT_NE(missing.log().find("/nonexistent"), std::string::npos);
}

// Without --foreground it returns when it is ready, leaves the terminal, and logs to its file.
TEST(Lifecycle, GoesIntoTheBackgroundOnceReady) {
  std::string log = testing::TempDir() + "background-" + std::to_string(getpid()) + ".log";
  std::string command = BF_BUILD "/bin/bfserver --dev --software-gpus 1 --listen 127.0.0.1:0 --worker " BF_BUILD
                                 "/tests/bf_fake_worker --log-file " +
                        log;
  FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  char line[256] = {};
  EXPECT_NE(fgets(line, sizeof line, pipe), nullptr);
  EXPECT_EQ(pclose(pipe), 0);
  transport::Address address;
  address.unix_name = std::string("backfield.") + (strrchr(line, ':') + 1);
  address.unix_name.pop_back();  // the end of the line
  Fd socket = dial(address);
  ucred peer{};
  socklen_t bytes = sizeof peer;
  ASSERT_EQ(getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes), 0);
  EXPECT_NE(getsid(peer.pid), getsid(0));
  kill(peer.pid, SIGTERM);
  EXPECT_TRUE(closes(socket.get(), 5s));
  std::ifstream file(log);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_NE(text.find("ending"), std::string::npos) << text;
  remove(log.c_str());
}

TEST(Lifecycle, TellsItsSupervisorThatItIsReady) {
  std::string name = "backfield-notify-test-" + std::to_string(getpid());
  Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path + 1, name.data(), name.size());
  ASSERT_EQ(bind(socket.get(), reinterpret_cast<sockaddr*>(&address),
                 socklen_t(offsetof(sockaddr_un, sun_path) + 1 + name.size())),
            0);
  Server server({.environment = {"NOTIFY_SOCKET=@" + name}});
  ASSERT_TRUE(server.ready()) << server.log();
  char text[64] = {};
  EXPECT_GT(recv(socket.get(), text, sizeof text - 1, 0), 0);
  EXPECT_STREQ(text, "READY=1");
}

// Leases, sessions, channels; a third of the workers die of SIGKILL.
TEST(Lifecycle, AThousandCyclesLeaveNothingBehind) {
  Server server({.gpus = 1});
  ASSERT_TRUE(server.ready()) << server.log();
  ASSERT_TRUE(eventually(2s, [&] { return server.workers().size() == 1; }));
  size_t descriptors = server.open_descriptors();
  for (int i = 0; i < 1000; i++) {
    Lease held;
    // What the cycles before held comes free as their workers are reaped.
    ASSERT_TRUE(eventually(5s,
                           [&] {
                             held = lease(server, 1, 512);
                             return held.reply.status == 0;
                           }))
        << i << ": " << held.reply.message;
    Session session = attach(server, held.reply, i % 3 == 0 ? "die" : "charge", i % 5 == 0);
    ASSERT_EQ(session.status.code(), StatusCode::kOk) << i << ": " << session.status.message();
    Fd channel;
    if (i % 5 == 1) {
      ASSERT_EQ(join(server, session, 0, &channel).code(), StatusCode::kOk);
    }
    if (i % 3 == 0) {
      ASSERT_EQ(write(session.socket.get(), "x", 1), 1);
      ASSERT_TRUE(closes(session.socket.get(), 2s)) << i;
    }
  }
  EXPECT_TRUE(eventually(5s, [&] {
    auto reply = list(server);
    return reply.sessions == 0 && reply.gpus[0].leases == 0 && reply.gpus[0].free_bytes == 1024 * kMiB;
  }));
  EXPECT_TRUE(eventually(5s, [&] { return server.workers().size() <= 1; }));
  EXPECT_TRUE(eventually(5s, [&] { return server.open_descriptors() <= descriptors; }))
      << server.open_descriptors() << " descriptors, before: " << descriptors;
}

}  // namespace
}  // namespace bf::test
