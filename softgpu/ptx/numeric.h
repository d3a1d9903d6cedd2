// Small floating-point formats, rounding, and NaN conventions.
//
// NVIDIA GPUs return one NaN from 32-bit and narrower arithmetic (all fraction bits set, positive). Narrow formats are
// computed in float or double such that one rounding remains: the sum and product of 11-bit significands are exact or
// correctly rounded in 24 bits twice over, and fma goes through double with rounding to odd.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstdint>

namespace bf::ptx {

enum class Round : uint8_t { kNearest, kZero, kDown, kUp, kAway };

inline constexpr uint32_t kNanF32 = 0x7fffffff;
inline constexpr uint16_t kNanF16 = 0x7fff;

inline float canonical(float x) { return x != x ? std::bit_cast<float>(kNanF32) : x; }
inline double canonical(double x) { return x; }  // 64-bit NaNs keep their payload

inline float flush(float x) { return __builtin_fabsf(x) < __FLT_MIN__ ? __builtin_copysignf(0.0f, x) : x; }
inline double flush(double x) { return x; }

// The processor's rounding direction for a scope. Everything computed inside must go through memory, as handlers do.
class RoundingScope {
 public:
  explicit RoundingScope(Round round) : saved_(_mm_getcsr()) {
    static constexpr unsigned kModes[] = {0, 0x6000, 0x2000, 0x4000, 0};
    _mm_setcsr((saved_ & ~0x6000u) | kModes[size_t(round)]);
    asm volatile("" ::: "memory");
  }
  ~RoundingScope() {
    asm volatile("" ::: "memory");
    _mm_setcsr(saved_);
  }

 private:
  unsigned saved_;
};

inline float half_to_float(uint16_t h) { return _cvtsh_ss(h); }
inline float bf16_to_float(uint16_t h) { return std::bit_cast<float>(uint32_t(h) << 16); }

// A binary format: exponent bits, fraction bits. Formats with `finite` have no infinities (e4m3).
struct Format {
  int exponent_bits, fraction_bits;
  bool finite = false;
  constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  constexpr uint32_t sign() const { return 1u << (exponent_bits + fraction_bits); }
  constexpr uint32_t infinity() const { return ((1u << exponent_bits) - 1) << fraction_bits; }
  constexpr uint32_t largest() const { return finite ? sign() - 2 : infinity() - 1; }
  constexpr uint32_t nan() const { return sign() - 1; }
};
inline constexpr Format kF16{5, 10}, kBf16{8, 7}, kTf32{8, 10}, kE4m3{4, 3, true}, kE5m2{5, 2};

// x rounded once to the format. Saturating: overflow and infinity become the largest finite value.
uint32_t round_to(const Format& format, double x, Round round, bool saturate = false);
double widen_from(const Format& format, uint32_t bits);

inline uint16_t float_to_half(float x) { return x != x ? kNanF16 : uint16_t(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }
inline uint16_t float_to_bf16(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  return x != x ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// a + b in double, rounded to odd: a later rounding to few bits sees exactly which side the true sum lies on.
inline double add_to_odd(double a, double b) {
  double s = a + b;
  if (!(__builtin_fabs(s) <= 1.7976931348623157e308)) return s;
  double t = s - a;
  double error = (a - (s - t)) + (b - t);
  uint64_t bits = std::bit_cast<uint64_t>(s);
  if (error != 0 && !(bits & 1)) {
    bool away = (error > 0) == (s > 0);
    bits += away ? 1 : uint64_t(-1);
  }
  return std::bit_cast<double>(bits);
}

}  // namespace bf::ptx
