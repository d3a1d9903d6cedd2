#include "proto/api/arena.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace bf::server {
namespace {

TEST(Arena, BlocksAreZeroedAlignedAndApart) {
  Arena arena;
  for (int round = 0; round < 2; round++) {
    std::vector<std::pair<unsigned char*, size_t>> blocks;
    for (size_t bytes : {1, 15, 16, 17, 4096, 4095, 33, 16 << 10, (16 << 10) + 16, 1, 100000}) {
      auto* p = static_cast<unsigned char*>(arena.alloc(bytes));
      ASSERT_NE(p, nullptr);
      EXPECT_EQ(uintptr_t(p) % alignof(std::max_align_t), 0u);
      for (size_t i = 0; i < bytes; i++) ASSERT_EQ(p[i], 0);
      std::memset(p, int(blocks.size() + 1), bytes);
      blocks.push_back({p, bytes});
    }
    for (size_t b = 0; b < blocks.size(); b++)
      for (size_t i = 0; i < blocks[b].second; i++) ASSERT_EQ(blocks[b].first[i], b + 1);
    for (size_t align : {32, 128}) EXPECT_EQ(uintptr_t(arena.alloc(128, align)) % align, 0u);
    arena.reset();
  }
}

TEST(Arena, IsBounded) {
  Arena arena;
  EXPECT_EQ(arena.alloc(Arena::kLimitBytes + 1), nullptr);
  EXPECT_EQ(arena.alloc(SIZE_MAX), nullptr);
  volatile size_t everything = Arena::kLimitBytes;  // a constant makes GCC 12 warn about the path not taken
  EXPECT_NE(arena.alloc(everything), nullptr);
  EXPECT_EQ(arena.alloc(1), nullptr);
  arena.reset();
  EXPECT_NE(arena.alloc(1), nullptr);
  EXPECT_EQ(arena.alloc_array<uint64_t>(limits::kArrayElements + 1), nullptr);
}

}  // namespace
}  // namespace bf::server
