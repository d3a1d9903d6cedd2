#include "server/worker/handles.h"

#include <gtest/gtest.h>

#include <thread>

namespace bf::server {
namespace {

uint64_t value(HandleKind kind, uint32_t index, uint16_t generation = 0, HandleMaker maker = HandleMaker::kClient) {
  return Handle{kind, maker, generation, index}.pack();
}

TEST(Handles, FindsWhatWasStoredAndNothingElse) {
  HandleTables tables;
  uint64_t real = 0;
  const uint64_t stream = value(HandleKind::kStream, 7, 3);
  EXPECT_FALSE(tables.resolve(HandleKind::kStream, stream, real));
  ASSERT_TRUE(tables.insert(HandleKind::kStream, stream, 0x1234));
  ASSERT_TRUE(tables.resolve(HandleKind::kStream, stream, real));
  EXPECT_EQ(real, 0x1234u);
  EXPECT_FALSE(tables.resolve(HandleKind::kEvent, stream, real));
  EXPECT_FALSE(tables.resolve(HandleKind::kStream, value(HandleKind::kStream, 7, 4), real));
  EXPECT_FALSE(tables.resolve(HandleKind::kStream, value(HandleKind::kStream, 8, 3), real));
  EXPECT_FALSE(tables.resolve(HandleKind::kStream, value(HandleKind::kStream, 7, 3, HandleMaker::kWorker), real));
  EXPECT_FALSE(tables.resolve(HandleKind::kStream, stream | uint64_t{1} << 60, real));
  EXPECT_FALSE(tables.resolve(HandleKind::kStream, 0x1234, real));
}

TEST(Handles, RefusesValuesThatAreNotTheClientsToMake) {
  HandleTables tables;
  EXPECT_FALSE(tables.insert(HandleKind::kStream, value(HandleKind::kEvent, 1), 1));
  EXPECT_FALSE(tables.insert(HandleKind::kStream, value(HandleKind::kStream, 1, 0, HandleMaker::kWorker), 1));
  EXPECT_FALSE(tables.insert(HandleKind::kStream, 0, 1));
  ASSERT_TRUE(tables.insert(HandleKind::kStream, value(HandleKind::kStream, 1), 1));
  EXPECT_TRUE(tables.insert(HandleKind::kStream, value(HandleKind::kStream, 1), 1));   // the same again
  EXPECT_FALSE(tables.insert(HandleKind::kStream, value(HandleKind::kStream, 1), 2));  // in use
}

TEST(Handles, AStaleValueIsNotFoundAfterReuse) {
  HandleTables tables;
  uint64_t real = 0;
  const uint64_t first = value(HandleKind::kEvent, 5, 0), second = value(HandleKind::kEvent, 5, 1);
  ASSERT_TRUE(tables.insert(HandleKind::kEvent, first, 10));
  tables.erase(HandleKind::kEvent, first);
  EXPECT_FALSE(tables.resolve(HandleKind::kEvent, first, real));
  ASSERT_TRUE(tables.insert(HandleKind::kEvent, second, 11));
  EXPECT_FALSE(tables.resolve(HandleKind::kEvent, first, real));
  ASSERT_TRUE(tables.resolve(HandleKind::kEvent, second, real));
  EXPECT_EQ(real, 11u);
  tables.erase(HandleKind::kEvent, first);  // stale: no effect
  EXPECT_TRUE(tables.resolve(HandleKind::kEvent, second, real));
  // Given up by the client although the driver kept it: taken over.
  EXPECT_TRUE(tables.insert(HandleKind::kEvent, value(HandleKind::kEvent, 5, 2), 12));
  EXPECT_FALSE(tables.resolve(HandleKind::kEvent, second, real));
}

TEST(Handles, KnowsTheValueOfDriverMadeHandles) {
  HandleTables tables;
  const uint64_t pool = tables.value_of(HandleKind::kMemoryPool, 0x99);
  EXPECT_EQ(Handle::unpack(pool).maker, HandleMaker::kWorker);
  EXPECT_EQ(tables.value_of(HandleKind::kMemoryPool, 0x99), pool);
  uint64_t real = 0;
  ASSERT_TRUE(tables.resolve(HandleKind::kMemoryPool, pool, real));
  EXPECT_EQ(real, 0x99u);
  const uint64_t graph = value(HandleKind::kGraph, 3);
  ASSERT_TRUE(tables.insert(HandleKind::kGraph, graph, 0x55));
  EXPECT_EQ(tables.value_of(HandleKind::kGraph, 0x55), graph);
  EXPECT_EQ(tables.value_of(HandleKind::kGraph, 0), 0u);
  tables.erase_real(HandleKind::kMemoryPool, 0x99);
  EXPECT_FALSE(tables.resolve(HandleKind::kMemoryPool, pool, real));
  EXPECT_NE(tables.value_of(HandleKind::kMemoryPool, 0x99), pool);  // the slot again, another generation
}

TEST(Handles, OneFunctionMayHaveSeveralValuesButANodeOnlyOne) {
  HandleTables tables;
  uint64_t real = 0;
  const uint64_t a = value(HandleKind::kFunction, 1), b = value(HandleKind::kFunction, 2);
  ASSERT_TRUE(tables.insert(HandleKind::kFunction, a, 7));
  ASSERT_TRUE(tables.insert(HandleKind::kFunction, b, 7));
  EXPECT_TRUE(tables.resolve(HandleKind::kFunction, a, real));
  tables.erase(HandleKind::kFunction, b);
  EXPECT_TRUE(tables.resolve(HandleKind::kFunction, a, real));
  const uint64_t old_node = value(HandleKind::kGraphNode, 1), new_node = value(HandleKind::kGraphNode, 2);
  ASSERT_TRUE(tables.insert(HandleKind::kGraphNode, old_node, 7));
  ASSERT_TRUE(tables.insert(HandleKind::kGraphNode, new_node, 7));
  EXPECT_FALSE(tables.resolve(HandleKind::kGraphNode, old_node, real));
  EXPECT_EQ(tables.value_of(HandleKind::kGraphNode, 7), new_node);
}

TEST(Handles, MemoryIsBoundedWhateverIndicesTheClientMakes) {
  HandleTables tables;
  uint32_t stored = 0;
  for (int kind = 1; kind < int(HandleKind::kCount); ++kind)
    for (uint32_t index = 0; index < 1u << limits::kHandleIndexBits; index += HandleTables::kChunkSlots)
      stored += tables.insert(HandleKind(kind), value(HandleKind(kind), index), 1);
  EXPECT_EQ(stored, HandleTables::kMaxChunks);
}

TEST(Handles, ReadersAndWritersAtOnce) {
  HandleTables tables;
  std::thread writer([&] {
    for (uint32_t i = 0; i < 20'000; ++i) {
      tables.insert(HandleKind::kEvent, value(HandleKind::kEvent, i % 64, uint16_t(i / 64)), i + 1);
      if (i % 3) tables.erase(HandleKind::kEvent, value(HandleKind::kEvent, i % 64, uint16_t(i / 64)));
    }
  });
  uint64_t wrong = 0, real = 0;
  for (uint32_t i = 0; i < 20'000; ++i)
    if (tables.resolve(HandleKind::kEvent, value(HandleKind::kEvent, i % 64, uint16_t(i / 64)), real))
      wrong += real == 0;
  writer.join();
  EXPECT_EQ(wrong, 0u);
}

}  // namespace
}  // namespace bf::server
