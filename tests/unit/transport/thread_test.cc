#include "transport/thread.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>

namespace bf::transport {
namespace {

TEST(Thread, RunsAndIsJoined) {
  std::atomic<bool> ran{false};
  {
    auto thread = Thread::start("bf-test", [&] { ran = true; });
    ASSERT_TRUE(thread.ok());
  }
  EXPECT_TRUE(ran);
}

TEST(Thread, MovesItsThreadAlong) {
  std::atomic<int> ran{0};
  auto first = Thread::start("bf-test", [&] { ran++; });
  auto second = Thread::start("bf-test", [&] { ran++; });
  ASSERT_TRUE(first.ok() && second.ok());
  Thread thread = std::move(first).value();
  thread = std::move(second).value();
  thread.join();
  thread.join();
  EXPECT_EQ(ran, 2);
}

TEST(Thread, BlocksSignalsButLeavesTheCallersMask) {
  sigset_t before, after, inside;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  {
    auto thread = Thread::start("bf-test", [&] { pthread_sigmask(SIG_SETMASK, nullptr, &inside); });
    ASSERT_TRUE(thread.ok());
  }
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (int signal = 1; signal < 32; signal++)
    EXPECT_EQ(sigismember(&before, signal), sigismember(&after, signal)) << signal;
  for (int signal : {SIGINT, SIGTERM, SIGPIPE, SIGALRM, SIGPROF, SIGUSR1}) EXPECT_TRUE(sigismember(&inside, signal));
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE}) EXPECT_FALSE(sigismember(&inside, signal));
}

}  // namespace
}  // namespace bf::transport
