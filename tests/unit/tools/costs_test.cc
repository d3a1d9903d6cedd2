// What a server with tokens and TLS costs those who use it; docs/benchmarks.md has the numbers. Other things run here, too, so a
// promise is held against the best of many tries, and the medians are printed. Discovery: survey_test.cc.
#include <sys/resource.h>

#include <cstdio>
#include <functional>
#include <thread>

#include "tests/unit/tools/pool_fixture.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using control::deadline_in;
using Clock = std::chrono::steady_clock;

// Times what is promised: code with sanitizers, compiled for speed of compiling, is not the program that the promises are about.
#ifdef BF_SANITIZERS
constexpr int kSlower = 5;
#else
constexpr int kSlower = 1;
#endif

double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

double quantile(std::vector<double> values, double at) {
  std::sort(values.begin(), values.end());
  return values[size_t(at * double(values.size() - 1))];
}

class Costs : public Pool {
 protected:
  static void SetUpTestSuite() {  // before the server, which inherits it
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
};

// What a program's start takes of the server's time, in steps. Its worker is there already, and its driver is not asked.
struct Start {
  static constexpr const char* kSteps[] = {"connect", "reserve", "lease", "attach", "together"};
  std::vector<double> ms[std::size(kSteps)];

  void print(const char* how) const {
    printf("%-14s", how);
    for (size_t i = 0; i < std::size(kSteps); i++) printf("  %s %.2f", kSteps[i], quantile(ms[i], 0.5));
    printf("  (ms, medians of %zu; best together %.2f)\n", ms[0].size(), quantile(ms[4], 0));
  }
};

TEST_F(Costs, TokenTlsAndLeaseAddLittleToAStart) {
  const std::string token = token_file("alice");
  Server dev;
  ASSERT_TRUE(dev.ready()) << dev.log();
  auto start_once = [&](const Server& server, const std::string& file, Start& start) {
    setenv("BF_TOKEN_FILE", file.c_str(), 1);
    auto begin = Clock::now(), last = begin;
    auto step = [&](size_t i) {
      start.ms[i].push_back(ms_since(last));
      last = Clock::now();
    };
    auto remote = tools::Remote::open(server.tcp(), deadline_in(10s));
    ASSERT_TRUE(remote.ok()) << remote.status().message();
    step(0);
    const std::string reservation = reserve(**remote).reservation_id;
    step(1);
    control::LeaseReply lease = commit(**remote, reservation);
    step(2);
    Fd socket = dial(server.tcp());
    auto attached = control::attach(socket.get(), wish_for(lease), lease.secret, deadline_in(10s));
    ASSERT_TRUE(attached.ok()) << attached.status().message();
    step(3);
    start.ms[4].push_back(ms_since(begin));
  };
  Start plain, secured;
  for (int i = 0; i < 50 && !HasFatalFailure(); i++) {
    start_once(dev, "", plain);
    start_once(*server_, token, secured);
  }
  ASSERT_FALSE(HasFatalFailure());
  plain.print("--dev");
  secured.print("token and TLS");
  EXPECT_LT(quantile(secured.ms[4], 0) - quantile(plain.ms[4], 0), 20 * kSlower);
}

// All wait for the same GPUs and ask again every two seconds, as bfrun does, each on its own connection with token and TLS.
TEST_F(Costs, AThousandWaitingClientsAreAnsweredQuickly) {
  constexpr size_t kThreads = 8, kEach = 125 / kSlower, kRounds = 4;  // fewer where the handshakes of all would take long
  constexpr auto kPause = 2s;
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 2 * kThreads * kEach) GTEST_SKIP() << "only " << files.rlim_cur << " descriptors allowed here";
  auto holder = connect(token_file("holder"));
  const std::string token = token_file("alice");
  ASSERT_EQ(commit(*holder, reserve(*holder, 2, 0).reservation_id).status, 0u);
  const size_t before = server_->open_descriptors();
  setenv("BF_TOKEN_FILE", token.c_str(), 1);
  std::vector<std::unique_ptr<tools::Remote>> clients(kThreads * kEach);
  auto in_threads = [](const std::function<void(size_t)>& work) {
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; t++) threads.emplace_back(work, t);
    for (auto& thread : threads) thread.join();
  };
  // Side by side, because each is a handshake, and the server ends a connection that says nothing for ten seconds.
  in_threads([&](size_t t) {
    for (size_t i = t * kEach; i < (t + 1) * kEach; i++) {
      auto remote = tools::Remote::open(server_->tcp(), deadline_in(10s));
      EXPECT_TRUE(remote.ok()) << remote.status().message();
      if (remote.ok()) clients[i] = std::move(*remote);
    }
  });
  ASSERT_FALSE(HasFailure());
  const size_t polling = server_->open_descriptors();
  EXPECT_LE(polling, before + clients.size());
  std::vector<double> answers_ms[kRounds][kThreads];
  const auto begin = Clock::now();
  in_threads([&](size_t t) {
    for (size_t round = 0; round < kRounds; round++)
      for (size_t i = 0; i < kEach; i++) {
        std::this_thread::sleep_until(begin + kPause * round + kPause * (i * kThreads + t) / (kThreads * kEach));
        auto asked = Clock::now();
        EXPECT_EQ(reserve(*clients[t * kEach + i]).status, uint32_t(StatusCode::kExhausted));
        answers_ms[round][t].push_back(ms_since(asked));
      }
  });
  EXPECT_EQ(server_->open_descriptors(), polling) << "no descriptor is made by asking";
  double best = 1e9;
  for (auto& round : answers_ms) {
    std::vector<double> all;
    for (auto& times : round) all.insert(all.end(), times.begin(), times.end());
    printf("%zu clients, an answer: median %.2f ms, 99th percentile %.2f ms\n", clients.size(), quantile(all, 0.5), quantile(all, 0.99));
    best = std::min(best, quantile(all, 0.5));
  }
  EXPECT_LT(best, 5 * kSlower);
  clients.clear();
  EXPECT_TRUE(eventually(5s, [&] { return server_->open_descriptors() <= before; })) << "and none is lost";
}

}  // namespace
}  // namespace bf::test
