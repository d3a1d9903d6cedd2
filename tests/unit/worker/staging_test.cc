#include "server/worker/staging.h"

#include <gtest/gtest.h>

#include <future>
#include <set>
#include <utility>
#include <vector>

#include "api/driver_api.h"

namespace bf::server {
namespace {

std::promise<void>* g_entered = nullptr;       // set by the registration that waits
std::shared_future<void>* g_opened = nullptr;  // what it waits for

CUresult registers(void*, size_t, unsigned) {
  if (g_entered) {
    std::exchange(g_entered, nullptr)->set_value();
    g_opened->wait();
  }
  return CUDA_SUCCESS;
}

class StagingTest : public testing::Test {
 protected:
  StagingTest() { driver_.cuMemHostRegister_v2 = registers; }
  StagingSlot take() { return staging_.take(Staging::kLargeBytes); }

  DriverApi driver_{};
  Staging staging_{driver_, false};
};

TEST_F(StagingTest, GivesEverySlotOnceAndNoMoreThanThereAre) {
  std::set<std::byte*> seen;
  for (size_t i = 0; i < Staging::kLargeSlots; ++i) {
    const StagingSlot slot = take();
    ASSERT_TRUE(slot.data);
    EXPECT_TRUE(slot.pinned && slot.large);
    EXPECT_TRUE(seen.insert(slot.data).second);
  }
  EXPECT_FALSE(take().data);
  staging_.give({*seen.begin(), true});
  EXPECT_EQ(take().data, *seen.begin());
}

// The driver lets a registration wait until the GPU has come further, and the GPU may wait for what giving back sets free.
TEST_F(StagingTest, SlotsAreGivenBackWhileTheDriverKeepsARegistrationWaiting) {
  std::vector<StagingSlot> slots;
  for (int i = 0; i < 16; ++i) slots.push_back(take());  // two slabs
  std::promise<void> entered, open;
  auto opened = open.get_future().share();
  g_entered = &entered;
  g_opened = &opened;
  auto waiting = std::async(std::launch::async, [&] { return take(); });
  entered.get_future().wait();
  auto giving = std::async(std::launch::async, [&] {
    staging_.give(slots[3]);
    return take();
  });
  EXPECT_EQ(giving.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  open.set_value();
  EXPECT_EQ(giving.get().data, slots[3].data);
  EXPECT_TRUE(waiting.get().data);
}

}  // namespace
}  // namespace bf::server
