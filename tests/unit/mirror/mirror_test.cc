// Two ends of mirrored memory in one process: what one changes the other takes over, and nothing else.
#include "proto/mirror.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <random>

namespace bf {
namespace {

constexpr uint64_t kAddress = 0x680000000000;

// One end: its memory, the bytes before and behind it, and the mirror.
class End {
 public:
  End(size_t offset, size_t bytes) : offset_(offset), bytes_(bytes) {
    size_ = offset + bytes + 2 * kMirrorPage;
    void* all = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page_ = static_cast<std::byte*>(all);
    mirror_ = Mirror::make(page_ + kMirrorPage + offset, kAddress + offset, bytes);
  }
  ~End() { munmap(page_, size_); }
  unsigned char* memory() { return reinterpret_cast<unsigned char*>(page_ + kMirrorPage + offset_); }
  Mirror& mirror() { return *mirror_; }
  size_t bytes() const { return bytes_; }

  // Sends everything that changed to `other`. Bytes of patches.
  size_t send(End& other, size_t capacity = 1 << 20) {
    size_t sent = 0;
    PatchBuffer buffer(capacity);
    for (uint64_t at = mirror_->address(); at < mirror_->end();) {
      buffer.clear();
      at = mirror_->collect(at, mirror_->end(), buffer);
      sent += buffer.size();
      const std::byte* bytes = buffer.data();
      Status status = read_patches(
          buffer.size(),
          [&](void* to, size_t count) {
            std::memcpy(to, bytes, count);
            bytes += count;
            return true;
          },
          [&](uint64_t line, uint64_t mask, const std::byte* data) { return other.mirror().apply(line, mask, data); });
      EXPECT_TRUE(status.ok()) << status.message();
    }
    return sent;
  }

 private:
  size_t offset_, bytes_, size_;
  std::byte* page_;
  std::unique_ptr<Mirror> mirror_;
};

TEST(Mirror, NothingChangedNothingSent) {
  End a(0, 3 * kMirrorPage), b(0, 3 * kMirrorPage);
  EXPECT_EQ(a.send(b), 0u);
  a.memory()[5000] = 1;
  EXPECT_EQ(a.send(b), 16 + 8 + kMirrorLine);
  EXPECT_EQ(a.send(b), 0u);
  EXPECT_EQ(b.send(a), 0u);  // taken over is agreed, not changed
  EXPECT_EQ(b.memory()[5000], 1);
}

TEST(Mirror, BytesBesideOneAnotherBelongToWhoeverWroteThem) {
  End a(0, kMirrorPage), b(0, kMirrorPage);
  for (size_t i = 0; i < kMirrorPage; ++i) (i % 3 ? a : b).memory()[i] = static_cast<unsigned char>(i * 7 + 1);
  a.send(b);
  b.send(a);
  for (size_t i = 0; i < kMirrorPage; ++i) {
    ASSERT_EQ(a.memory()[i], static_cast<unsigned char>(i * 7 + 1)) << i;
    ASSERT_EQ(b.memory()[i], a.memory()[i]) << i;
  }
}

TEST(Mirror, AValueThatGoesBackIsSentToo) {
  End a(0, 128), b(0, 128);
  a.memory()[3] = 9;
  a.send(b);
  a.memory()[3] = 0;
  EXPECT_GT(a.send(b), 0u);
  EXPECT_EQ(b.memory()[3], 0);
}

TEST(Mirror, EdgesOfUnalignedRangesStay) {
  for (size_t offset : {0, 1, 63, 64, 100, 4095}) {
    for (size_t bytes : {1, 63, 64, 65, 4096, 5000}) {
      End a(offset, bytes), b(offset, bytes);
      b.memory()[-1] = b.memory()[bytes] = 0x55;
      std::memset(a.memory() - 1, 0xaa, bytes + 2);
      a.send(b);
      EXPECT_EQ(std::memcmp(a.memory(), b.memory(), bytes), 0) << offset << " " << bytes;
      EXPECT_EQ(b.memory()[-1], 0x55);
      EXPECT_EQ(b.memory()[bytes], 0x55);
    }
  }
}

TEST(Mirror, RandomChangesOnBothSidesMeet) {
  std::mt19937 random(1);
  End a(0, 40 * kMirrorPage + 77), b(0, 40 * kMirrorPage + 77);
  std::vector<unsigned char> truth(a.bytes());
  for (int round = 0; round < 200; ++round) {
    std::vector<bool> taken(a.bytes());  // no byte is written by both in one round
    for (int write = 0; write < 20; ++write) {
      End& end = random() % 2 ? a : b;
      size_t at = random() % a.bytes(), count = std::min<size_t>(a.bytes() - at, random() % 3 ? random() % 9 : random() % 9000);
      for (size_t i = at; i < at + count; ++i) {
        if (taken[i]) continue;
        taken[i] = true;
        truth[i] = end.memory()[i] = static_cast<unsigned char>(random());
      }
    }
    (round % 2 ? a : b).send(round % 2 ? b : a, kPatchBound * (1 + random() % 4));
    (round % 2 ? b : a).send(round % 2 ? a : b);
    ASSERT_EQ(std::memcmp(a.memory(), truth.data(), truth.size()), 0) << round;
    ASSERT_EQ(std::memcmp(b.memory(), truth.data(), truth.size()), 0) << round;
  }
}

TEST(Mirror, RefusesWhatIsOutside) {
  End a(100, 1000);
  std::byte line[kMirrorLine]{};
  EXPECT_FALSE(a.mirror().apply(kAddress, ~uint64_t{0}, line));
  EXPECT_FALSE(a.mirror().apply(kAddress + 64, 1, line));                     // byte 64 lies before byte 100
  EXPECT_TRUE(a.mirror().apply(kAddress + 64, uint64_t{1} << 36, line));      // byte 100 does not
  EXPECT_FALSE(a.mirror().apply(kAddress + 65, uint64_t{1} << 36, line));     // no line begins there
  EXPECT_TRUE(a.mirror().apply(kAddress + 1088, (1 << 12) - 1, line));
  EXPECT_FALSE(a.mirror().apply(kAddress + 1088, 1 << 12, line));
  EXPECT_FALSE(a.mirror().apply(kAddress + 1152, 1, line));
  EXPECT_FALSE(a.mirror().apply(~uint64_t{63}, 1, line));
}

TEST(Mirror, MalformedPatchesAreRefused) {
  const auto parse = [](std::vector<uint64_t> words, size_t bytes) {
    words.resize(std::max(words.size(), bytes / 8 + 1));
    const auto* at = reinterpret_cast<const std::byte*>(words.data());
    return read_patches(
               bytes,
               [&](void* to, size_t count) {
                 std::memcpy(to, at, count);
                 at += count;
                 return true;
               },
               [](uint64_t, uint64_t, const std::byte*) { return true; })
        .code();
  };
  EXPECT_EQ(parse({kAddress, 1, 1}, 88), StatusCode::kOk);
  EXPECT_EQ(parse({kAddress, 1, 1}, 87), StatusCode::kInvalid);       // cut
  EXPECT_EQ(parse({kAddress, 0, 1}, 16), StatusCode::kInvalid);       // no line
  EXPECT_EQ(parse({kAddress, 1, 0}, 88), StatusCode::kInvalid);       // no byte
  EXPECT_EQ(parse({kAddress + 8, 1, 1}, 88), StatusCode::kInvalid);   // not aligned
  EXPECT_EQ(parse({~uint64_t{63}, 2, 1}, 88), StatusCode::kInvalid);  // past the last address
  EXPECT_EQ(parse({kAddress, ~uint64_t{0}}, 88), StatusCode::kInvalid);
  EXPECT_EQ(parse({}, 8), StatusCode::kInvalid);
}

}  // namespace
}  // namespace bf
