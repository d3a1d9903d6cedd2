// Patches of mirrored memory from a hostile peer: whatever they say, only the range changes.
#include <cstdlib>
#include <cstring>

#include "proto/mirror.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bf;
  constexpr size_t kOffset = 100, kBytes = 5000, kGuard = 4096;
  constexpr uint64_t kAddress = 0x10000 + kOffset;
  static std::byte memory[2 * kGuard + kOffset + kBytes];
  std::memset(memory, 0x5a, sizeof memory);
  auto mirror = Mirror::make(memory + kGuard + kOffset, kAddress, kBytes);
  if (!mirror) return 0;
  // Addresses near the range, so that most inputs get past the first check: the first byte of each patch's address is
  // the input's, the rest is ours.
  const uint8_t* at = data;
  (void)read_patches(
      size,
      [&](void* to, size_t count) {
        std::memcpy(to, at, count);
        if (count == 16 && (data[0] & 1) == 0) {
          uint64_t address;
          std::memcpy(&address, to, 8);
          address = 0x10000 + (address & 0x3fc0);
          std::memcpy(to, &address, 8);
        }
        at += count;
        return true;
      },
      [&](uint64_t line, uint64_t mask, const std::byte* bytes) {
        mirror->apply(line, mask, bytes);
        return true;
      });
  for (size_t i = 0; i < kGuard + kOffset; ++i)
    if (memory[i] != std::byte{0x5a}) abort();
  for (size_t i = kGuard + kOffset + kBytes; i < sizeof memory; ++i)
    if (memory[i] != std::byte{0x5a}) abort();
  return 0;
}
