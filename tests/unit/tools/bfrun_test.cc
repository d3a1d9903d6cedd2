// bfrun as people use it, against a bfserver with fake GPUs.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "tests/unit/daemon/test_server.h"
#include "tests/unit/tools/run_tool.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

class Bfrun : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(server_.ready()) << server_.log(); }

  std::vector<std::string> line(std::vector<std::string> options, std::vector<std::string> program) {
    std::vector<std::string> words = {"bfrun", "--server", server_.address()};
    words.insert(words.end(), options.begin(), options.end());
    words.insert(words.end(), program.begin(), program.end());
    return words;
  }
  Finished run(std::vector<std::string> options, std::vector<std::string> program) {
    return run_tool(line(options, program));
  }
  bool all_free() {
    return eventually(2s, [&] {
      auto reply = list(server_);
      return std::all_of(reply.gpus.begin(), reply.gpus.end(), [](auto& gpu) { return gpu.leases == 0; });
    });
  }

  Server server_;
};

TEST_F(Bfrun, GivesTheProgramItsEnvironment) {
  auto done = run_tool(line({"-m", "100", "--transport", "tcp"},
                            {"--", "sh", "-c",
                             "echo $LD_LIBRARY_PATH; echo $BF_SERVER; echo $BF_TRANSPORT; echo $KEPT; "
                             "echo ${#BF_LEASE} ${#BF_LEASE_SECRET}"}),
                       {"LD_LIBRARY_PATH=/my/libraries", "KEPT=yes"});
  EXPECT_EQ(done.status, 0) << done.err;
  EXPECT_EQ(done.out, prefix() + "/lib/backfield:/my/libraries\n" + server_.address() + "\ntcp\nyes\n16 64\n");
  EXPECT_EQ(done.err, "") << "silent unless asked";
  done = run({"-m", "100"}, {"sh", "-c", "echo $LD_LIBRARY_PATH"});
  EXPECT_EQ(done.out, prefix() + "/lib/backfield\n");
}

TEST_F(Bfrun, HoldsTheLeaseWhileTheProgramRuns) {
  auto started = start_tool(line({"-n", "2", "-p", "0.5"}, {"sh", "-c", "echo up; sleep 30"}));
  EXPECT_EQ(next_line(started.out), "up");
  auto reply = list(server_);
  EXPECT_EQ(reply.gpus[0].free_bytes, 512 * kMiB);
  EXPECT_EQ(reply.gpus[1].leases, 1u);
  kill(started.pid, SIGTERM);
  EXPECT_EQ(finish(started, 5s).status, 128 + SIGTERM);
  EXPECT_TRUE(all_free());
}

TEST_F(Bfrun, PassesOnTheExitStatus) {
  EXPECT_EQ(run({"-m", "100"}, {"--", "sh", "-c", "exit 42"}).status, 42);
  EXPECT_EQ(run({"-m", "100"}, {"--", "sh", "-c", "kill -9 $$"}).status, 128 + SIGKILL);
  EXPECT_EQ(run({"-m", "100"}, {"--", "sh", "-c", "kill -SEGV $$"}).status, 128 + SIGSEGV);
  auto missing = run({"-m", "100"}, {"--", "no-such-program"});
  EXPECT_EQ(missing.status, 127);
  EXPECT_NE(missing.err.find("no-such-program"), std::string::npos);
  EXPECT_EQ(run({"-m", "100"}, {"--", "/etc/passwd"}).status, 126);
  EXPECT_EQ(run({"-m", "100"}, {"--", "/"}).status, 126);
  EXPECT_EQ(run({"-m", "100"}, {"--", "/etc/passwd/x"}).status, 127);
  EXPECT_TRUE(all_free());
}

TEST_F(Bfrun, PassesTheProgramsOwnOptionsThrough) {
  EXPECT_EQ(run({"-m", "100"}, {"echo", "-n", "5", "--server", "x", "--", "-m"}).out, "5 --server x -- -m");
  EXPECT_EQ(run({"-v", "-m100", "--transport=tcp"}, {"--", "printf", "%s", "--"}).out, "--");
}

TEST_F(Bfrun, UsageErrorsExit2AndSayWhatToType) {
  std::vector<std::vector<std::string>> wrong = {
      {"bfrun"},
      {"bfrun", "--"},
      {"bfrun", "-m", "100"},
      {"bfrun", "-n", "0", "true"},
      {"bfrun", "-n", "x", "true"},
      {"bfrun", "-m", "-1", "true"},
      {"bfrun", "-p", "1.5", "true"},
      {"bfrun", "-m", "5", "-p", "0.5", "true"},
      {"bfrun", "--transport", "pigeon", "true"},
      {"bfrun", "--bogus", "true"},
  };
  for (auto& words : wrong) {
    auto done = run_tool(words);
    EXPECT_EQ(done.status, 2) << testing::PrintToString(words) << done.err;
    EXPECT_NE(done.err.find("bfrun -n 1 -m 2048 -- PROGRAM"), std::string::npos) << done.err;
    EXPECT_EQ(done.out, "");
  }
  EXPECT_EQ(run_tool({"bfrun", "--help"}).status, 0);
}

TEST_F(Bfrun, WhatIsNeverPossibleFailsAtOnce) {
  auto start = Clock::now();
  auto done = run({"-m", "5000", "--timeout", "30"}, {"true"});
  EXPECT_EQ(done.status, 125);
  EXPECT_NE(done.err.find("1024 MiB"), std::string::npos) << "names the biggest GPU: " << done.err;
  EXPECT_EQ(run({"-n", "3", "--timeout", "30"}, {"true"}).status, 125);
  EXPECT_EQ(run_tool({"bfrun", "--server", "127.0.0.1:1", "true"}).status, 125) << "nobody answers";
  EXPECT_LT(Clock::now() - start, 5s);
}

TEST_F(Bfrun, WaitsWhileAllAreBusy) {
  Lease all = lease(server_, 2, 1024);
  auto start = Clock::now();
  auto done = run({"-m", "100", "--timeout", "1"}, {"true"});
  EXPECT_EQ(done.status, 75);
  EXPECT_NE(done.err.find("busy"), std::string::npos) << done.err;
  EXPECT_GE(Clock::now() - start, 900ms);
  EXPECT_LT(Clock::now() - start, 3s);
  auto waiting = start_tool(line({"-m", "100", "--timeout", "20"}, {"echo", "got it"}));
  std::this_thread::sleep_for(300ms);
  all.connection.reset();
  auto got = finish(waiting, 10s);
  EXPECT_EQ(got.status, 0);
  EXPECT_EQ(got.out, "got it\n");
  EXPECT_EQ(got.err, "") << "no progress line where no terminal is";
}

TEST_F(Bfrun, ChoosesAmongServers) {
  Server big({.gpus = 1, .memory_mib = 4096});
  ASSERT_TRUE(big.ready()) << big.log();
  auto done = run({"--server", big.address(), "--server", "127.0.0.1:1", "-m", "100"}, {"sh", "-c", "echo $BF_SERVER"});
  EXPECT_EQ(done.out, server_.address() + "\n") << "the tightest fit" << done.err;
  EXPECT_NE(done.err.find("warning: ignoring a server: cannot reach 127.0.0.1:1"), std::string::npos) << done.err;
  done = run({"--server", big.address(), "-m", "2000"}, {"sh", "-c", "echo $BF_SERVER"});
  EXPECT_EQ(done.out, big.address() + "\n") << "the only one" << done.err;
  std::string file = testing::TempDir() + "servers-" + std::to_string(getpid());
  std::ofstream(file) << "# pool\n" << big.address() << "\n";
  EXPECT_EQ(run_tool({"bfrun", "--servers", file, "sh", "-c", "echo $BF_SERVER"}).out, big.address() + "\n");
  EXPECT_EQ(run_tool({"bfrun", "sh", "-c", "echo $BF_SERVER"}, {"BF_SERVERS=" + big.address()}).out,
            big.address() + "\n");
  remove(file.c_str());
}

TEST_F(Bfrun, VerboseNamesServerGpuLeaseAndTransport) {
  auto done = run({"-v", "-m", "100"}, {"true"});
  EXPECT_EQ(done.out, "");
  for (auto word : {"100 MiB", "GPU 0", "Fake GPU", "lease ", "transport auto"})
    EXPECT_NE(done.err.find(word), std::string::npos) << word << " in " << done.err;
  EXPECT_NE(done.err.find(server_.address()), std::string::npos);
}

TEST_F(Bfrun, ForwardsSignalsSentToIt) {
  for (int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
    auto started = start_tool(line({"-m", "100"}, {"sh", "-c",
                                                   "trap 'echo caught; exit 9' INT TERM HUP QUIT USR1 USR2; "
                                                   "echo up; while :; do sleep 0.05; done"}));
    ASSERT_EQ(next_line(started.out), "up");
    kill(started.pid, number);
    auto done = finish(started, 5s);
    EXPECT_EQ(done.status, 9) << number;
    EXPECT_EQ(done.out, "caught\n") << number;
  }
}

TEST_F(Bfrun, WhenItIsKilledLeaseAndProgramEnd) {
  auto started = start_tool(line({"-m", "100"}, {"sh", "-c", "echo $$; exec sleep 100"}));
  pid_t program = pid_t(atoi(next_line(started.out).c_str()));
  ASSERT_GT(program, 0);
  kill(started.pid, SIGKILL);
  EXPECT_EQ(finish(started, 5s).status, 1000 + SIGKILL);
  EXPECT_TRUE(all_free());
  EXPECT_TRUE(eventually(2s, [&] { return kill(program, 0) != 0; }));
}

TEST_F(Bfrun, SaysWhenTheServerEndsTheLease) {
  auto started = start_tool(line({"-m", "100"}, {"sh", "-c", "echo up; sleep 1; echo still here"}));
  ASSERT_EQ(next_line(started.out), "up");
  server_.signal(SIGTERM);
  auto done = finish(started, 5s);
  EXPECT_EQ(done.status, 0);
  EXPECT_EQ(done.out, "still here\n");
  EXPECT_NE(done.err.find("ended the lease"), std::string::npos) << done.err;
}

TEST_F(Bfrun, SaysWhyTheLeaseWasTakenBack) {
  Server strict({.arguments = {"--idle-timeout", "1"}});
  ASSERT_TRUE(strict.ready()) << strict.log();
  auto done = run_tool({"bfrun", "--server", strict.address(), "-m", "100", "sh", "-c", "sleep 3; echo on my own"});
  EXPECT_EQ(done.status, 0);
  EXPECT_EQ(done.out, "on my own\n");
  EXPECT_NE(done.err.find("after 1 s without a CUDA call (idle timeout)"), std::string::npos) << done.err;
}

// Sends the byte that the fake worker dies of.
void provoke(const Session& session) { ASSERT_EQ(write(session.socket.get(), "x", 1), 1); }

TEST_F(Bfrun, SaysAtOnceWhenAWorkerIsLost) {
  auto started = start_tool(line({"-m", "500"}, reveal_lease("sleep 3; echo over; exit 7")));
  auto lease = revealed_lease(started);
  Session killed = attach(server_, lease, "die"), refused = attach(server_, lease, "violate"), other = attach(server_, lease, "echo");
  attach(server_, lease, "echo").socket.reset();  // ends well, and nothing is said
  auto said = [&](const std::string& program, const std::string& why) {
    return "bfrun: the server " + server_.address() + " lost the worker of " + program + " (process " + std::to_string(getpid()) + ")" + why +
           "; its CUDA calls fail from now on (CUDA_ERROR_DEVICE_UNAVAILABLE)";
  };
  auto start = Clock::now();
  provoke(killed);
  EXPECT_EQ(next_line(started.err), said("die", ": killed by signal 9"));
  provoke(refused);
  EXPECT_EQ(next_line(started.err), said("violate", " after at least 7 calls: the client broke the protocol"));
  EXPECT_LT(Clock::now() - start, 2500ms) << "while the program runs";
  EXPECT_TRUE(echoes(other)) << "other programs under the lease go on";
  auto done = finish(started, 10s);
  EXPECT_EQ(done.err, "") << "once each";
  EXPECT_EQ(done.out, "over\n");
  EXPECT_EQ(done.status, 7);
}

// The program ends of it before the server has seen the worker's end.
TEST_F(Bfrun, SaysThatAWorkerWasLostWhenTheProgramHasFailedAlready) {
  auto started = start_tool(line({"-m", "500"}, reveal_lease("exec sleep 20")));
  Session session = attach(server_, revealed_lease(started), "linger");
  provoke(session);
  kill(started.pid, SIGTERM);
  auto done = finish(started, 8s);
  EXPECT_EQ(done.status, 128 + SIGTERM);
  EXPECT_TRUE(done.err.starts_with("bfrun: the server ") && done.err.ends_with("(CUDA_ERROR_DEVICE_UNAVAILABLE)\n")) << done.err;
}

TEST_F(Bfrun, DoesNotWaitForOthersWhenTheProgramHasFailed) {
  auto started = start_tool(line({"-m", "500"}, reveal_lease("sleep 1; exit 1")));
  Session session = attach(server_, revealed_lease(started), "echo");
  auto done = finish(started, 8s);
  EXPECT_EQ(done.status, 1);
  EXPECT_EQ(done.err, "");
}

TEST_F(Bfrun, BfClientSaysItToo) {
  auto made = run_tool({"bf", "request", "--server", server_.address(), "-m", "500"});
  ASSERT_EQ(made.status, 0) << made.err;
  std::vector<std::string> words = {"bf", "client", "--server", server_.address(), "--lease", made.out.substr(0, 16), "--"};
  std::ranges::copy(reveal_lease("sleep 2; exit 3"), std::back_inserter(words));
  auto started = start_tool(words);
  Session session = attach(server_, revealed_lease(started), "die");
  provoke(session);
  EXPECT_TRUE(next_line(started.err).starts_with("bf: the server " + server_.address() + " lost the worker of die (process "));
  auto done = finish(started, 8s);
  EXPECT_EQ(done.err, "");
  EXPECT_EQ(done.status, 3);
}

TEST_F(Bfrun, FiltersAndPolicies) {
  EXPECT_EQ(run({"-m", "100", "--filter", "device.id=1", "-v"}, {"true"}).err.find("GPU 1"), std::string("bfrun: 100 MiB of ").size());
  auto never = run({"--filter", "device.memory>=99999"}, {"true"});
  EXPECT_EQ(never.status, 125);
  EXPECT_NE(never.err.find("no GPU of any server matches the filter device.memory>=99999"), std::string::npos) << never.err;
  EXPECT_EQ(run({"--filter", "device.memory>=lots"}, {"true"}).status, 2);
  EXPECT_EQ(run({"-m", "100", "--filter", "device.name=fake", "--filter", "server.addr=127.0.0.0/8", "--policy", "spread"}, {"true"}).status, 0);
}

TEST_F(Bfrun, NeedsItsLibrary) {
  std::string library = prefix() + "/lib/backfield/libcuda.so.1";
  ASSERT_EQ(rename(library.c_str(), (library + ".away").c_str()), 0);
  auto done = run({"-m", "100"}, {"true"});
  ASSERT_EQ(rename((library + ".away").c_str(), library.c_str()), 0);
  EXPECT_EQ(done.status, 125);
  EXPECT_NE(done.err.find("libcuda.so.1"), std::string::npos);
}

}  // namespace
}  // namespace bf::test
