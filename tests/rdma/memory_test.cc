// The registration cache, against a device that only counts.
#include "transport/rdma_memory.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>

namespace bf::transport::rdma {
namespace {

std::set<ibv_mr*> g_registered;
int g_calls = 0;
int g_error = 0;

ibv_mr* count_in(ibv_pd*, void* data, size_t bytes, int) {
  g_calls++;
  if (g_error != 0) {
    errno = g_error;
    return nullptr;
  }
  auto* mr = new ibv_mr{};
  mr->addr = data;
  mr->length = bytes;
  mr->lkey = uint32_t(g_calls);
  g_registered.insert(mr);
  return mr;
}
int count_out(ibv_mr* mr) {
  EXPECT_EQ(g_registered.erase(mr), 1u);
  delete mr;
  return 0;
}

class RegionCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    Verbs fake;
    fake.ibv_reg_mr = count_in;
    fake.ibv_dereg_mr = count_out;
    fake.forks_copy = true;
    replace_verbs(fake);
    g_calls = g_error = 0;
  }
  void TearDown() override { EXPECT_TRUE(g_registered.empty()); }
  std::byte memory_[8192];
};

TEST_F(RegionCacheTest, RegistersAtTheFirstUseAndOnce) {
  RegionCache cache(nullptr, 1 << 20);
  cache.remember(memory_, 4096);
  EXPECT_EQ(g_calls, 0);
  auto first = cache.find(memory_ + 10, 100);
  ASSERT_TRUE(first);
  EXPECT_EQ(cache.find(memory_, 4096), first);
  cache.remember(memory_, 4096);  // as before
  EXPECT_EQ(cache.find(memory_, 1), first);
  EXPECT_EQ(g_calls, 1);
  EXPECT_EQ(memory_use().bytes, 4096u);
}

TEST_F(RegionCacheTest, OnlyWhatLiesWhollyInside) {
  RegionCache cache(nullptr, 1 << 20);
  cache.remember(memory_ + 100, 1000);
  EXPECT_FALSE(cache.find(memory_ + 99, 10));
  EXPECT_FALSE(cache.find(memory_ + 100, 1001));
  EXPECT_FALSE(cache.find(memory_ + 1100, 1));
  EXPECT_FALSE(cache.find(memory_ + 200, SIZE_MAX));
  EXPECT_TRUE(cache.find(memory_ + 1099, 1));
}

TEST_F(RegionCacheTest, WhatIsInUseOutlivesForget) {
  RegionCache cache(nullptr, 1 << 20);
  cache.remember(memory_, 4096);
  auto used = cache.find(memory_, 1);
  cache.forget(memory_);
  cache.forget(memory_);
  EXPECT_EQ(g_registered.size(), 1u);
  EXPECT_FALSE(cache.find(memory_, 1));
  used.reset();
  EXPECT_TRUE(g_registered.empty());
}

TEST_F(RegionCacheTest, TheLeastRecentlyUsedMakesRoom) {
  RegionCache cache(nullptr, 2000);
  for (int i : {0, 1, 2}) cache.remember(memory_ + i * 1000, 1000);
  (void)cache.find(memory_, 1);
  (void)cache.find(memory_ + 1000, 1);
  (void)cache.find(memory_, 1);
  EXPECT_TRUE(cache.find(memory_ + 2000, 1));  // in place of 1
  EXPECT_EQ(g_registered.size(), 2u);
  EXPECT_EQ(g_calls, 3);
  (void)cache.find(memory_, 1);
  EXPECT_EQ(g_calls, 3);
  EXPECT_TRUE(cache.find(memory_ + 1000, 1));  // comes back
  EXPECT_EQ(g_calls, 4);
}

TEST_F(RegionCacheTest, ARefusalIsNotTriedAgain) {
  RegionCache cache(nullptr, 1 << 20);
  cache.remember(memory_, 4096);
  g_error = ENOMEM;
  EXPECT_FALSE(cache.find(memory_, 1));
  EXPECT_FALSE(cache.find(memory_, 1));
  EXPECT_EQ(g_calls, 1);
}

// --- A GPU's memory

ibv_mr* count_dmabuf(ibv_pd*, uint64_t offset, size_t bytes, uint64_t address, int dmabuf, int) {
  EXPECT_EQ(offset, 0u);
  EXPECT_GE(dmabuf, 0);
  return count_in(nullptr, reinterpret_cast<void*>(address), bytes, 0);
}

TEST_F(RegionCacheTest, MemoryOfAGpuIsRegisteredAtOnceAndKept) {
  Verbs fake = loaded_verbs();
  fake.ibv_reg_dmabuf_mr = count_dmabuf;
  fake.forks_copy = false;  // concerns the host's memory only
  replace_verbs(fake);
  RegionCache cache(nullptr, 1000);
  auto* gpu = reinterpret_cast<std::byte*>(0x7000'0000'0000);
  EXPECT_TRUE(cache.remember_device(gpu, 1 << 20, 5));
  EXPECT_EQ(g_calls, 1);
  EXPECT_TRUE(cache.find(gpu + 4096, 4096));
  EXPECT_FALSE(cache.find(gpu + 4096, 1 << 20));
  EXPECT_FALSE(cache.remember_device(gpu, 1 << 20, 5)) << "twice";
  EXPECT_TRUE(cache.find(gpu, 1 << 20)) << "still the first";
  cache.forget(gpu);
  EXPECT_FALSE(cache.find(gpu, 1));
  EXPECT_TRUE(g_registered.empty());
}

TEST_F(RegionCacheTest, MemoryOfAGpuThatTheDeviceCannotReadIsRefused) {
  RegionCache cache(nullptr, 1 << 20);
  EXPECT_FALSE(cache.remember_device(memory_, 4096, 5)) << "an old library";
  Verbs fake = loaded_verbs();
  fake.ibv_reg_dmabuf_mr = count_dmabuf;
  replace_verbs(fake);
  g_error = EOPNOTSUPP;
  EXPECT_FALSE(cache.remember_device(memory_, 4096, 5));
  EXPECT_FALSE(cache.find(memory_, 1));
}

TEST_F(RegionCacheTest, TooLargeOrUnsafeWithForksIsNotRegistered) {
  RegionCache cache(nullptr, 1000);
  cache.remember(memory_, 4096);
  EXPECT_FALSE(cache.find(memory_, 1));
  Verbs fake = loaded_verbs();
  fake.forks_copy = false;
  replace_verbs(fake);
  RegionCache other(nullptr, 1 << 20);
  other.remember(memory_, 4096);
  EXPECT_FALSE(other.find(memory_, 1));
  EXPECT_EQ(g_calls, 0);
}

}  // namespace
}  // namespace bf::transport::rdma
