#include "server/worker/charges.h"

#include <gtest/gtest.h>

namespace bf::server {
namespace {

constexpr uint64_t kMiB = 1 << 20, kBlock = Charges::kBlockBytes;

class ChargesTest : public testing::Test {
 protected:
  ChargesTest() {
    const uint64_t limits[] = {64 * kMiB, 32 * kMiB};
    auto made = Ledger::create(limits);
    ledger_.emplace(std::move(*made));
    charges_.emplace(*ledger_, 1, std::vector<Charges::Device>{{0, 8 * kMiB}, {1, 8 * kMiB}});
  }
  bool add(uint64_t address, uint64_t bytes, CUcontext context = nullptr) {
    return charges_->add({0, address, bytes, context, false});
  }
  void free(uint64_t address) {
    const auto record = charges_->take(address);
    ASSERT_TRUE(record);
    charges_->settle(*record);
  }
  std::optional<Ledger> ledger_;
  std::optional<Charges> charges_;
};

TEST_F(ChargesTest, ABlockIsChargedOnceHoweverManyShareIt) {
  ASSERT_TRUE(add(16 * kBlock, 100));
  ASSERT_TRUE(add(16 * kBlock + 512, 100));
  EXPECT_EQ(ledger_->used(0), kBlock);
  free(16 * kBlock);
  EXPECT_EQ(ledger_->used(0), kBlock);
  free(16 * kBlock + 512);
  EXPECT_EQ(ledger_->used(0), 0u);
  ASSERT_TRUE(add(17 * kBlock - 1, 2));  // one byte in each of two
  EXPECT_EQ(ledger_->used(0), 2 * kBlock);
}

TEST_F(ChargesTest, RefusesWhatPassesThePartitionAndForgetsIt) {
  ASSERT_TRUE(add(0, 62 * kMiB));
  EXPECT_TRUE(charges_->may_fit(0, 2 * kMiB));
  EXPECT_FALSE(charges_->may_fit(0, 4 * kMiB));
  EXPECT_FALSE(add(100 * kBlock, 4 * kMiB));
  EXPECT_EQ(ledger_->used(0), 62 * kMiB);
  EXPECT_FALSE(charges_->take(100 * kBlock));
  ASSERT_TRUE(add(100 * kBlock, 2 * kMiB));
  EXPECT_EQ(charges_->free(0), 0u);
  EXPECT_TRUE(add(100 * kBlock + 5, 10));  // shares a block: costs nothing
}

TEST_F(ChargesTest, AFailedFreeStaysCharged) {
  ASSERT_TRUE(add(0, kBlock));
  const auto record = charges_->take(0);
  ASSERT_TRUE(record);
  charges_->restore(*record);
  EXPECT_EQ(ledger_->used(0), kBlock);
  free(0);
  EXPECT_EQ(ledger_->used(0), 0u);
}

TEST_F(ChargesTest, AContextTakesItsMemoryAlong) {
  const auto mine = reinterpret_cast<CUcontext>(1), other = reinterpret_cast<CUcontext>(2);
  ASSERT_TRUE(charges_->add_context(0));
  ASSERT_TRUE(add(0, kBlock, mine));
  ASSERT_TRUE(add(8 * kBlock, kBlock, other));
  EXPECT_EQ(ledger_->used(0), 8 * kMiB + 2 * kBlock);
  charges_->remove_context(mine);
  charges_->remove_context_cost(0);
  EXPECT_EQ(ledger_->used(0), kBlock);
  charges_->remove_context_cost(0);  // there is none any more
  EXPECT_EQ(ledger_->used(0), kBlock);
  EXPECT_EQ(ledger_->used(1), 0u);
}

TEST_F(ChargesTest, PoolsAreChargedWhatBacksThem) {
  const auto pool = reinterpret_cast<CUmemoryPool>(1);
  ASSERT_TRUE(charges_->set_pool(pool, 1, 16 * kMiB));
  EXPECT_EQ(ledger_->used(1), 16 * kMiB);
  EXPECT_FALSE(charges_->set_pool(pool, 1, 34 * kMiB));
  EXPECT_EQ(ledger_->used(1), 16 * kMiB);
  ASSERT_TRUE(charges_->set_pool(pool, 1, 4 * kMiB));
  EXPECT_EQ(ledger_->used(1), 4 * kMiB);
  ASSERT_TRUE(charges_->set_pool(pool, 1, 0));
  EXPECT_TRUE(charges_->pools().empty());
}

TEST_F(ChargesTest, TheEndRefundsEverythingOfThisWorkerOnly) {
  ASSERT_TRUE(ledger_->charge(2, 0, 6 * kMiB));
  ASSERT_TRUE(add(0, 10 * kMiB));
  ASSERT_TRUE(charges_->add_context(0));
  charges_.reset();
  EXPECT_EQ(ledger_->used(0), 6 * kMiB);
}

}  // namespace
}  // namespace bf::server
