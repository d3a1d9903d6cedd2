#include "base/sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace bf {
namespace {

constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

struct Hasher {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::byte block[64];
  size_t used = 0;
  uint64_t total = 0;

  void compress(const std::byte* data) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      uint32_t word;
      std::memcpy(&word, data + 4 * i, 4);
      w[i] = __builtin_bswap32(word);
    }
    for (int i = 16; i < 64; ++i) {
      uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; ++i) {
      uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
      uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }

  void update(std::span<const std::byte> data) {
    total += data.size();
    if (used > 0) {
      size_t take = std::min(data.size(), sizeof(block) - used);
      std::memcpy(block + used, data.data(), take);
      used += take;
      data = data.subspan(take);
      if (used < sizeof(block)) return;
      compress(block);
      used = 0;
    }
    for (; data.size() >= sizeof(block); data = data.subspan(sizeof(block))) compress(data.data());
    if (!data.empty()) std::memcpy(block, data.data(), data.size());
    used = data.size();
  }

  Sha256 finish() {
    uint64_t bits = __builtin_bswap64(total * 8);
    const std::byte one{0x80}, zeros[64]{};
    update({&one, 1});
    update({zeros, (used <= 56 ? 56 : 120) - used});
    update({reinterpret_cast<const std::byte*>(&bits), 8});
    Sha256 out;
    for (int i = 0; i < 8; ++i) {
      uint32_t word = __builtin_bswap32(state[i]);
      std::memcpy(out.data() + 4 * i, &word, 4);
    }
    return out;
  }
};

}  // namespace

Sha256 sha256(std::span<const std::span<const std::byte>> parts) {
  Hasher hasher;
  for (auto part : parts) hasher.update(part);
  return hasher.finish();
}

Sha256 sha256(std::span<const std::byte> data) { return sha256(std::span(&data, 1)); }

Sha256 hmac_sha256(std::span<const std::byte> key, std::span<const std::byte> data) {
  std::array<std::byte, 64> inner{}, outer{};
  Sha256 hashed;
  if (key.size() > inner.size()) key = hashed = sha256(key);
  std::copy(key.begin(), key.end(), inner.begin());
  outer = inner;
  for (auto& byte : inner) byte ^= std::byte{0x36};
  for (auto& byte : outer) byte ^= std::byte{0x5c};
  const std::span<const std::byte> first[] = {inner, data};
  Sha256 digest = sha256(first);
  const std::span<const std::byte> second[] = {outer, digest};
  return sha256(second);
}

}  // namespace bf
