#include "transport/thread.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

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

// Each waits for all others, so one after the other would never end.
TEST(RunTogether, RunsAllAtOnceAndGivesTheFirstFailure) {
  std::atomic<int> here{0};
  EXPECT_TRUE(run_together(5, [&](size_t) {
                for (here++; here < 5;) std::this_thread::yield();
                return Status();
              }).ok());
  const Status failed = run_together(4, [](size_t i) { return i < 2 ? Status() : Status(StatusCode::kInvalid, std::to_string(i)); });
  EXPECT_EQ(failed.code(), StatusCode::kInvalid);
  EXPECT_EQ(failed.message(), "2");
  EXPECT_TRUE(run_together(0, [](size_t) { return Status(StatusCode::kInvalid, "nobody"); }).ok());
}

// Older kernels give every thread the same slices; that its niceness stays holds everywhere.
TEST(ShortSlices, NothingElseChanges) {
  auto thread = Thread::start("bf-test", [] {
    ASSERT_EQ(setpriority(PRIO_PROCESS, id_t(gettid()), 3), 0);
    prefer_short_slices();
    EXPECT_EQ(getpriority(PRIO_PROCESS, id_t(gettid())), 3);
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
  });
  ASSERT_TRUE(thread.ok());
}

}  // namespace
}  // namespace bf::transport
