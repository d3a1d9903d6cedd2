#include "softgpu/ptx/numeric.h"

namespace bf::ptx {

uint32_t round_to(const Format& format, double x, Round round, bool saturate) {
  if (x != x) return format.nan();
  uint64_t bits = std::bit_cast<uint64_t>(x);
  bool negative = bits >> 63;
  uint32_t sign = negative ? format.sign() : 0;
  bits &= ~(uint64_t{1} << 63);
  if (bits == 0) return sign;
  uint32_t top = format.finite || saturate ? format.largest() : format.infinity();
  if (format.finite && !saturate) top = format.nan();
  if (bits == uint64_t{0x7ff} << 52) return sign | top;
  int exponent = int(bits >> 52) - 1023;
  uint64_t fraction = bits & ((uint64_t{1} << 52) - 1);
  if (bits >> 52 == 0) {  // a subnormal double is far below every format here
    exponent = -1022;
  } else {
    fraction |= uint64_t{1} << 52;
  }
  int least = 1 - format.bias();  // exponent of the smallest normal number
  int drop = 52 - format.fraction_bits + (exponent < least ? least - exponent : 0);
  uint64_t kept = drop > 63 ? 0 : fraction >> drop;
  uint64_t lost = drop > 63 ? 1 : fraction & ((uint64_t{1} << drop) - 1);
  uint64_t half = drop > 63 ? 2 : uint64_t{1} << (drop - 1);
  bool up = false;
  switch (round) {
    case Round::kNearest:
      up = lost > half || (lost == half && (kept & 1));
      break;
    case Round::kAway:
      up = lost >= half;
      break;
    case Round::kZero:
      break;
    case Round::kDown:
      up = negative && lost;
      break;
    case Round::kUp:
      up = !negative && lost;
      break;
  }
  kept += up;
  int biased = exponent < least ? 0 : exponent - least;
  // A kept value with its leading one adds that one to the exponent field by itself.
  uint64_t result = (uint64_t(biased) << format.fraction_bits) + kept;
  if (result > format.largest()) {
    bool to_largest =
        saturate || round == Round::kZero || (round == Round::kDown && !negative) || (round == Round::kUp && negative);
    return sign | (to_largest ? format.largest() : top);
  }
  return sign | uint32_t(result);
}

double widen_from(const Format& format, uint32_t bits) {
  bool negative = bits & format.sign();
  bits &= format.sign() - 1;
  uint32_t exponent = bits >> format.fraction_bits;
  uint32_t fraction = bits & ((1u << format.fraction_bits) - 1);
  double magnitude;
  if (format.finite ? bits == format.nan() : bits > format.infinity()) {
    magnitude = std::bit_cast<double>(uint64_t{0x7ff8} << 48);
  } else if (!format.finite && bits == format.infinity()) {
    magnitude = HUGE_VAL;
  } else if (exponent == 0) {
    magnitude = std::ldexp(double(fraction), 1 - format.bias() - format.fraction_bits);
  } else {
    magnitude =
        std::ldexp(double(fraction | 1u << format.fraction_bits), int(exponent) - format.bias() - format.fraction_bits);
  }
  return negative ? -magnitude : magnitude;
}

}  // namespace bf::ptx
