// SIMD video instructions on bytes and halfwords: vadd, vsub, vabsdiff, vmin, vmax, vavrg with 2 or 4 lanes, without
// lane masks and selectors (compilers emit the plain form).
#include <algorithm>

#include "softgpu/ptx/handlers.h"

namespace bf::ptx {
namespace {

enum Operation : uint32_t { kAdd, kSub, kAbsDiff, kMin, kMax, kAverage };

// flags: operation | lanes << 4 | a signed << 8 | b signed << 9 | d signed << 10 | saturate << 11 | accumulate << 12.
void video(Warp& w, const Inst& in) {
  const uint32_t *a = at<uint32_t>(w, in.a), *b = at<uint32_t>(w, in.b), *c = at<uint32_t>(w, in.c);
  const uint32_t flags = in.flags, count = flags >> 4 & 15, bits = 32 / count;
  const uint32_t mask = (1u << bits) - 1;
  auto part = [=](uint32_t word, uint32_t k, bool sign) {
    uint32_t v = word >> (bits * k) & mask;
    return sign && v >> (bits - 1) ? int32_t(v) - int32_t(mask) - 1 : int32_t(v);
  };
  const bool signed_d = flags >> 10 & 1;
  const int32_t low = signed_d ? -(1 << (bits - 1)) : 0, high = signed_d ? (1 << (bits - 1)) - 1 : int32_t(mask);
  each<uint32_t>(w, in.d, [=](int i) {
    uint32_t result = 0, sum = c[i];
    for (uint32_t k = 0; k < count; ++k) {
      int32_t x = part(a[i], k, flags >> 8 & 1), y = part(b[i], k, flags >> 9 & 1), r = 0;
      switch (flags & 15) {
        case kAdd:
          r = x + y;
          break;
        case kSub:
          r = x - y;
          break;
        case kAbsDiff:
          r = x < y ? y - x : x - y;
          break;
        case kMin:
          r = std::min(x, y);
          break;
        case kMax:
          r = std::max(x, y);
          break;
        default:
          r = (x + y + 1) >> 1;
          break;
      }
      if (flags >> 11 & 1) r = std::clamp(r, low, high);
      result |= (uint32_t(r) & mask) << (bits * k);
      sum += uint32_t(r);
    }
    return flags >> 12 & 1 ? sum : result;
  });
}

bool rule_video(Lower& lw) {
  static constexpr std::string_view kNames[] = {"vadd", "vsub", "vabsdiff", "vmin", "vmax", "vavrg"};
  std::string_view name = lw.opcode();
  uint32_t count = uint32_t(name.back() - '0'), operation = 0;
  name.remove_suffix(1);
  while (operation < 6 && kNames[operation] != name) ++operation;
  Type d = lw.take_type(), a = lw.take_type(), b = lw.take_type();
  bool saturate = lw.take("sat"), accumulate = lw.take("add");
  for (Type t : {d, a, b})
    if (t != Type::kU32 && t != Type::kS32) return false;
  if (!lw.expect_operands(4, 4)) return false;
  Inst& inst = lw.emit(video, lw.dst(0, d), lw.src(1, a), lw.src(2, b), lw.src(3, d));
  inst.flags = operation | count << 4 | uint32_t(a == Type::kS32) << 8 | uint32_t(b == Type::kS32) << 9 |
               uint32_t(d == Type::kS32) << 10 | uint32_t(saturate) << 11 | uint32_t(accumulate) << 12;
  return true;
}

constexpr NamedRule kRules[] = {
    {"vadd2", rule_video},     {"vadd4", rule_video},     {"vsub2", rule_video},  {"vsub4", rule_video},
    {"vabsdiff2", rule_video}, {"vabsdiff4", rule_video}, {"vmin2", rule_video},  {"vmin4", rule_video},
    {"vmax2", rule_video},     {"vmax4", rule_video},     {"vavrg2", rule_video}, {"vavrg4", rule_video},
};

}  // namespace

std::span<const NamedRule> video_rules() { return kRules; }

}  // namespace bf::ptx
