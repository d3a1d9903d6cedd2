#include "server/ledger.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <vector>

namespace bf::server {
namespace {

constexpr uint64_t kMiB = 1 << 20;

Ledger make(std::vector<uint64_t> limit_bytes) {
  auto ledger = Ledger::create(limit_bytes);
  EXPECT_TRUE(ledger.ok()) << ledger.status().message();
  return std::move(*ledger);
}

Ledger reopen(const Ledger& ledger) {
  auto other = Ledger::open(Fd(dup(ledger.fd())));
  EXPECT_TRUE(other.ok()) << other.status().message();
  return std::move(*other);
}

TEST(Ledger, ChargesUpToTheLimitExactly) {
  Ledger ledger = make({10 * kMiB, 4 * kMiB});
  EXPECT_EQ(ledger.devices(), 2u);
  EXPECT_EQ(ledger.limit(1), 4 * kMiB);
  EXPECT_TRUE(ledger.charge(0, 0, 6 * kMiB));
  EXPECT_FALSE(ledger.charge(1, 0, 4 * kMiB + 1));
  EXPECT_TRUE(ledger.charge(1, 0, 4 * kMiB));
  EXPECT_FALSE(ledger.charge(2, 0, 1));
  EXPECT_FALSE(ledger.charge(0, 1, UINT64_MAX));
  EXPECT_EQ(ledger.used(0), 10 * kMiB);
  EXPECT_EQ(ledger.used(1), 0u);
  ledger.refund(0, 0, 2 * kMiB);
  EXPECT_EQ(ledger.charged(0, 0), 4 * kMiB);
  EXPECT_TRUE(ledger.charge(5, 0, 2 * kMiB));
  ledger.refund(0, 0, UINT64_MAX);
  EXPECT_EQ(ledger.charged(0, 0), 0u);
}

TEST(Ledger, IsSharedByAllThatMapIt) {
  Ledger server = make({10 * kMiB});
  Ledger worker = reopen(server);
  EXPECT_TRUE(worker.charge(3, 0, 7 * kMiB));
  EXPECT_EQ(server.used(0), 7 * kMiB);
  server.clear_slot(3);
  EXPECT_EQ(worker.used(0), 0u);
}

TEST(Ledger, NeverPassesTheLimitTogether) {
  Ledger ledger = make({1000});
  std::vector<std::thread> threads;
  std::atomic<int> granted{0};
  for (size_t t = 0; t < 4; t++)
    threads.emplace_back([&, t] {
      Ledger mine = reopen(ledger);
      for (int i = 0; i < 1000; i++)
        if (mine.charge(t, 0, 1)) granted++;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(granted, 1000);
  EXPECT_EQ(ledger.used(0), 1000u);
}

// Workers that are killed at any moment, also inside the mutex, neither block the others nor break the sum.
TEST(Ledger, SurvivesKilledWorkers) {
  Ledger ledger = make({1000 * kMiB});
  for (int round = 0; round < 20; round++) {
    pid_t child = fork();
    if (child == 0) {
      for (;;) {
        ledger.charge(1, 0, kMiB);
        ledger.refund(1, 0, kMiB);
      }
    }
    usleep(useconds_t(1000 + 500 * (round % 5)));
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    ledger.clear_slot(1);
    ASSERT_TRUE(ledger.charge(0, 0, kMiB));
  }
  EXPECT_EQ(ledger.used(0), 20 * kMiB);
}

TEST(Ledger, CannotBeResizedByAWorker) {
  Ledger ledger = make({kMiB});
  EXPECT_NE(ftruncate(ledger.fd(), 0), 0);
  EXPECT_NE(ftruncate(ledger.fd(), 1 << 24), 0);
}

TEST(Ledger, RefusesOtherFiles) {
  EXPECT_FALSE(Ledger::open(Fd(open("/dev/null", O_RDWR | O_CLOEXEC))).ok());
  EXPECT_FALSE(Ledger::open(Fd(memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING))).ok());
  EXPECT_FALSE(Ledger::open(Fd()).ok());
}

}  // namespace
}  // namespace bf::server
