#include "server/daemon/event_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/random.h"

namespace bf::daemon {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<EventLoop> make_loop() {
  auto loop = EventLoop::create();
  EXPECT_TRUE(loop.ok());
  return std::move(*loop);
}

TEST(EventLoop, TimersRunInOrderAndCanBeCancelled) {
  auto loop = make_loop();
  std::string order;
  loop->after(30ms, [&] {
    order += "c";
    loop->stop();
  });
  loop->after(10ms, [&] { order += "a"; });
  auto cancelled = loop->after(15ms, [&] { order += "x"; });
  loop->after(20ms, [&] { order += "b"; });
  loop->cancel(cancelled);
  loop->run();
  EXPECT_EQ(order, "abc");
}

// Two descriptors are ready in one round and the first handler forgets the second one: its event must not be delivered,
// not even to a new watch on the same number.
TEST(EventLoop, ForgottenDescriptorsGetNoEvents) {
  auto loop = make_loop();
  Fd one(eventfd(1, EFD_CLOEXEC)), two(eventfd(1, EFD_CLOEXEC));
  int stale = 0, handled = 0;
  auto handler = [&](Fd& other) {
    return [&](uint32_t) {
      handled++;
      loop->forget(one.get());
      loop->forget(two.get());
      int number = other.get();
      other.reset();
      Fd fresh(eventfd(0, EFD_CLOEXEC));
      ASSERT_EQ(fresh.get(), number);
      ASSERT_TRUE(loop->watch(fresh.get(), EPOLLIN, [&](uint32_t) { stale++; }).ok());
      other = std::move(fresh);
    };
  };
  ASSERT_TRUE(loop->watch(one.get(), EPOLLIN, handler(two)).ok());
  ASSERT_TRUE(loop->watch(two.get(), EPOLLIN, handler(one)).ok());
  loop->after(30ms, [&] { loop->stop(); });
  loop->run();
  EXPECT_EQ(handled, 1);
  EXPECT_EQ(stale, 0);
}

TEST(EventLoop, DeferredWorkRunsAfterTheHandler) {
  auto loop = make_loop();
  Fd event(eventfd(1, EFD_CLOEXEC));
  std::string order;
  ASSERT_TRUE(loop->watch(event.get(), EPOLLIN,
                          [&](uint32_t) {
                            loop->defer([&] { order += "deferred"; });
                            order += "handler ";
                            loop->stop();
                          })
                  .ok());
  loop->run();
  EXPECT_EQ(order, "handler deferred");
}

TEST(Random, SecretsDifferAndCompare) {
  std::string a = random_bytes(32), b = random_bytes(32);
  EXPECT_EQ(a.size(), 32u);
  EXPECT_NE(a, b);
  EXPECT_TRUE(equal_secrets(a, std::string(a)));
  EXPECT_FALSE(equal_secrets(a, b));
  EXPECT_FALSE(equal_secrets(a, a.substr(1)));
  EXPECT_EQ(random_id().size(), 16u);
}

}  // namespace
}  // namespace bf::daemon
