#include "client/handle_table.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

namespace bf::client {
namespace {

struct Thing {
  int number = 0;
};
using Table = HandleTable<Thing, HandleKind::kEvent>;

TEST(HandleTable, FindsWhatItMade) {
  Table table;
  uint64_t value = table.make();
  ASSERT_NE(value, 0u);
  EXPECT_TRUE(Handle::plausible(value));
  EXPECT_EQ(Handle::unpack(value).kind, HandleKind::kEvent);
  ASSERT_NE(table.find(value), nullptr);
  table.find(value)->number = 7;
  EXPECT_EQ(table.find(value)->number, 7);
}

TEST(HandleTable, DoesNotFindWhatIsNotThere) {
  Table table;
  uint64_t value = table.make();
  Handle other = Handle::unpack(value);
  other.kind = HandleKind::kStream;
  EXPECT_EQ(table.find(other.pack()), nullptr);
  other = Handle::unpack(value);
  ++other.generation;
  EXPECT_EQ(table.find(other.pack()), nullptr);
  other = Handle::unpack(value);
  other.index = 123456;
  EXPECT_EQ(table.find(other.pack()), nullptr);
  EXPECT_EQ(table.find(0), nullptr);
  EXPECT_EQ(table.find(2), nullptr);
  EXPECT_EQ(table.find(~uint64_t{0}), nullptr);
  EXPECT_FALSE(table.erase(other.pack()));
}

TEST(HandleTable, ForgetsTheDeadAndNeverRepeatsAValueSoon) {
  Table table;
  std::set<uint64_t> seen;
  for (int i = 0; i < 5000; ++i) {
    uint64_t value = table.make();
    EXPECT_TRUE(seen.insert(value).second);
    EXPECT_TRUE(table.erase(value));
    EXPECT_FALSE(table.erase(value));
    EXPECT_EQ(table.find(value), nullptr);
  }
}

TEST(HandleTable, AdoptsOnlyTheWorkersValues) {
  Table table;
  uint64_t theirs = Handle{HandleKind::kEvent, HandleMaker::kWorker, 3, 17}.pack();
  EXPECT_EQ(table.find(theirs), nullptr);
  Thing* thing = table.adopt(theirs);
  ASSERT_NE(thing, nullptr);
  EXPECT_EQ(table.adopt(theirs), thing);
  EXPECT_EQ(table.find(theirs), thing);
  EXPECT_EQ(table.adopt(table.make()), nullptr);
  EXPECT_EQ(table.adopt(Handle{HandleKind::kStream, HandleMaker::kWorker, 0, 1}.pack()), nullptr);
  int count = 0;
  table.for_each([&](uint64_t, Thing&) { ++count; });
  EXPECT_EQ(count, 2);
}

TEST(HandleTable, ManyThreadsMakeAndErase) {
  Table table;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&table, t] {
      for (int i = 0; i < 2000; ++i) {
        uint64_t value = table.make();
        table.find(value)->number = t;
        ASSERT_EQ(table.find(value)->number, t);
        ASSERT_TRUE(table.erase(value));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  table.for_each([](uint64_t, Thing&) { ADD_FAILURE() << "something is left"; });
}

}  // namespace
}  // namespace bf::client
