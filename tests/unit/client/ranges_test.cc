#include "client/ranges.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

namespace bf::client {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// Nobody maps there; a table of one test may keep its reservations, as tables live as long as the process.
uint64_t fresh_base() {
  static uint64_t base = uint64_t{0x7e9000000000};
  return base += 64 * kMiB;
}

Range device(uint64_t base, uint64_t bytes, uint64_t context = 1) {
  Range range;
  range.base = base;
  range.bytes = bytes;
  range.context = context;
  return range;
}

bool mapped(uint64_t address) {
  unsigned char residence;
  return mincore(reinterpret_cast<void*>(address), 1, &residence) == 0 || errno != ENOMEM;
}

TEST(Ranges, FindsByAnyAddressInside) {
  const uint64_t base = fresh_base();
  RangeTable table;
  table.insert(device(base, 1000));
  table.insert(device(base + 1024, 512));
  EXPECT_EQ(table.find(base + 999)->base, base);
  EXPECT_EQ(table.find(base + 1024)->base, base + 1024);
  EXPECT_FALSE(table.find(base + 1000));
  EXPECT_FALSE(table.find(base - 1));
  EXPECT_FALSE(table.find(base + 1536));
}

TEST(Ranges, CoversOnlyWhatLiesInOneRangeOfTheKind) {
  const uint64_t base = fresh_base();
  RangeTable table;
  table.insert(device(base, 1000));
  EXPECT_TRUE(table.device_covers(base, 1000));
  EXPECT_TRUE(table.device_covers(base + 500, 500));
  EXPECT_FALSE(table.device_covers(base + 500, 501));
  EXPECT_FALSE(table.device_covers(base + 500, ~uint64_t{0}));
}

TEST(Ranges, RemovesByBaseAndKind) {
  const uint64_t base = fresh_base();
  RangeTable table;
  table.insert(device(base, 1000));
  EXPECT_FALSE(table.remove(base + 1, Range::Kind::kDevice));
  EXPECT_FALSE(table.remove(base, Range::Kind::kPinned));
  EXPECT_TRUE(table.remove(base, Range::Kind::kDevice));
  EXPECT_FALSE(table.find(base));
}

TEST(Ranges, IdsAreNeverReused) {
  const uint64_t base = fresh_base();
  RangeTable table;
  uint64_t first = table.insert(device(base, 1000));
  table.remove(base, Range::Kind::kDevice);
  EXPECT_NE(table.insert(device(base, 1000)), first);
}

TEST(Ranges, ReservesDeviceMemoryWhileItLives) {
  const uint64_t base = fresh_base();
  RangeTable table;
  ASSERT_FALSE(mapped(base));
  table.insert(device(base, 512));
  table.insert(device(base + 512, 7 * kMiB));
  EXPECT_TRUE(mapped(base));
  EXPECT_TRUE(mapped(base + 5 * kMiB));
  table.remove(base, Range::Kind::kDevice);
  EXPECT_TRUE(mapped(base)) << "the neighbour shares the first block";
  table.remove(base + 512, Range::Kind::kDevice);
  EXPECT_FALSE(mapped(base));
  EXPECT_FALSE(mapped(base + 5 * kMiB));
}

TEST(Ranges, LeavesOtherMappingsAlone) {
  const uint64_t base = fresh_base();
  auto* memory = static_cast<char*>(mmap(reinterpret_cast<void*>(base), 4096, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  ASSERT_EQ(memory, reinterpret_cast<char*>(base));
  memory[0] = 42;
  RangeTable table;
  table.insert(device(base, 4 * kMiB));
  EXPECT_EQ(memory[0], 42);
  table.remove(base, Range::Kind::kDevice);
  EXPECT_EQ(memory[0], 42);
  munmap(memory, 4096);
}

TEST(Ranges, TellHostMemoryThatIsCopiedFromOtherHostMemory) {
  RangeTable table;
  Range pinned = device(fresh_base(), 4096), other = device(fresh_base(), 4096);
  pinned.kind = other.kind = Range::Kind::kPinned;
  table.insert(pinned);
  table.insert(other);
  table.note_copy(pinned.base + 100);
  EXPECT_TRUE(table.hidden(pinned.base));
  EXPECT_FALSE(table.hidden(pinned.base, false));
  EXPECT_TRUE(table.hidden(other.base, false));
  table.set_mirrored(other.base);
  EXPECT_FALSE(table.hidden(other.base, false));
}

TEST(Ranges, DieWithTheirContext) {
  const uint64_t base = fresh_base();
  RangeTable table;
  table.insert(device(base, 100, 1));
  table.insert(device(base + 4096, 100, 2));
  table.remove_context(1);
  EXPECT_FALSE(table.find(base));
  EXPECT_TRUE(table.find(base + 4096));
}

}  // namespace
}  // namespace bf::client
