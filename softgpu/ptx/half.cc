// f16, bf16 and their pairs. One value at a time in float or double, rounded once (see numeric.h).
#include <algorithm>

#include "softgpu/ptx/handlers.h"
#include "softgpu/ptx/numeric.h"

namespace bf::ptx {
namespace {

struct F16 {
  static float get(uint16_t bits) { return half_to_float(bits); }
  static uint16_t put(float x) { return float_to_half(x); }
  static uint16_t put_exact(double x) { return uint16_t(round_to(kF16, x, Round::kNearest)); }
  static constexpr float smallest = 0x1p-14f;
};
struct Bf16 {
  static float get(uint16_t bits) { return bf16_to_float(bits); }
  static uint16_t put(float x) { return float_to_bf16(x); }
  static uint16_t put_exact(double x) { return uint16_t(round_to(kBf16, x, Round::kNearest)); }
  static constexpr float smallest = 0x1p-126f;
};

enum Option : uint32_t { kFlush = 1, kSaturate = 2, kRelu = 4, kNanWins = 8, kXorSign = 16 };

template <typename K>
inline float load(uint16_t bits, uint32_t options) {
  float x = K::get(bits);
  return (options & kFlush) && __builtin_fabsf(x) < K::smallest ? __builtin_copysignf(0, x) : x;
}

template <typename K>
inline uint16_t store(uint16_t bits, uint32_t options) {
  if (options == 0) return bits;
  float x = K::get(bits);
  if ((options & kFlush) && __builtin_fabsf(x) < K::smallest) return uint16_t(bits & 0x8000);
  if (options & kSaturate) return x > 0 ? (x < 1 ? bits : K::put(1)) : uint16_t(0);
  if ((options & kRelu) && x <= 0) return 0;
  return bits;
}

struct Add {
  template <typename K>
  static uint16_t apply(float a, float b, float) {
    return K::put(a + b);
  }
};
struct Sub {
  template <typename K>
  static uint16_t apply(float a, float b, float) {
    return K::put(a - b);
  }
};
struct Mul {
  template <typename K>
  static uint16_t apply(float a, float b, float) {
    float product = a * b;  // exact, unless it leaves float's normal range
    return __builtin_fabsf(product) < 0x1p-120f ? K::put_exact(double(a) * double(b)) : K::put(product);
  }
};
struct Fma {
  template <typename K>
  static uint16_t apply(float a, float b, float c) {
    return K::put_exact(add_to_odd(double(a) * double(b), double(c)));
  }
};
template <auto F>
struct Approx {
  template <typename K>
  static uint16_t apply(float a, float, float) {
    return K::put_exact(F(double(a)));
  }
};
double exp2_of(double x) { return std::exp2(x); }
double tanh_of(double x) { return std::tanh(x); }

template <typename K, typename Op>
inline uint16_t compute(uint16_t a, uint16_t b, uint16_t c, uint32_t options) {
  return store<K>(Op::template apply<K>(load<K>(a, options), load<K>(b, options), load<K>(c, options)), options);
}

// Unused operands repeat the first one.
template <typename K, typename Op>
void scalar(Warp& w, const Inst& in) {
  const uint16_t *a = at<uint16_t>(w, in.a), *b = at<uint16_t>(w, in.b), *c = at<uint16_t>(w, in.c);
  const uint32_t options = in.flags;
  each<uint16_t>(w, in.d, [=](int i) { return compute<K, Op>(a[i], b[i], c[i], options); });
}
template <typename K, typename Op>
void pair(Warp& w, const Inst& in) {
  const uint32_t *a = at<uint32_t>(w, in.a), *b = at<uint32_t>(w, in.b), *c = at<uint32_t>(w, in.c);
  const uint32_t options = in.flags;
  each<uint32_t>(w, in.d, [=](int i) {
    uint32_t low = compute<K, Op>(uint16_t(a[i]), uint16_t(b[i]), uint16_t(c[i]), options);
    uint32_t high = compute<K, Op>(uint16_t(a[i] >> 16), uint16_t(b[i] >> 16), uint16_t(c[i] >> 16), options);
    return low | high << 16;
  });
}

template <bool Max>
struct Extreme {
  template <typename K>
  static uint16_t apply_options(uint16_t a, uint16_t b, uint32_t options) {
    float x = load<K>(a, options), y = load<K>(b, options);
    bool nan = x != x || y != y;
    if (nan && ((options & kNanWins) || (x != x && y != y))) return 0x7fff;
    bool negative = (a ^ b) & 0x8000;
    if (options & kXorSign) x = __builtin_fabsf(x), y = __builtin_fabsf(y);
    float r;
    if (x != x)
      r = y;
    else if (y != y)
      r = x;
    else if (x == y)
      r = Max ? (std::signbit(x) ? y : x) : (std::signbit(x) ? x : y);
    else
      r = Max ? std::max(x, y) : std::min(x, y);
    if (options & kXorSign) r = negative ? -r : r;
    return K::put(r);
  }
};
template <typename K, bool Max>
void extreme_scalar(Warp& w, const Inst& in) {
  const uint16_t *a = at<uint16_t>(w, in.a), *b = at<uint16_t>(w, in.b);
  const uint32_t options = in.flags;
  each<uint16_t>(w, in.d, [=](int i) { return Extreme<Max>::template apply_options<K>(a[i], b[i], options); });
}
template <typename K, bool Max>
void extreme_pair(Warp& w, const Inst& in) {
  const uint32_t *a = at<uint32_t>(w, in.a), *b = at<uint32_t>(w, in.b);
  const uint32_t options = in.flags;
  each<uint32_t>(w, in.d, [=](int i) {
    uint32_t low = Extreme<Max>::template apply_options<K>(uint16_t(a[i]), uint16_t(b[i]), options);
    uint32_t high = Extreme<Max>::template apply_options<K>(uint16_t(a[i] >> 16), uint16_t(b[i] >> 16), options);
    return low | high << 16;
  });
}

template <typename Op>
Handler pick(Type t) {
  switch (t) {
    case Type::kF16:
      return scalar<F16, Op>;
    case Type::kF16x2:
      return pair<F16, Op>;
    case Type::kBf16:
      return scalar<Bf16, Op>;
    case Type::kBf16x2:
      return pair<Bf16, Op>;
    default:
      return nullptr;
  }
}
template <bool Max>
Handler pick_extreme(Type t) {
  switch (t) {
    case Type::kF16:
      return extreme_scalar<F16, Max>;
    case Type::kF16x2:
      return extreme_pair<F16, Max>;
    case Type::kBf16:
      return extreme_scalar<Bf16, Max>;
    case Type::kBf16x2:
      return extreme_pair<Bf16, Max>;
    default:
      return nullptr;
  }
}

struct Operation {
  std::string_view opcode;
  size_t inputs;
  Handler (*pick)(Type);
};
constexpr Operation kOperations[] = {
    {"add", 2, pick<Add>},
    {"sub", 2, pick<Sub>},
    {"mul", 2, pick<Mul>},
    {"fma", 3, pick<Fma>},
    {"min", 2, pick_extreme<false>},
    {"max", 2, pick_extreme<true>},
    {"ex2", 1, pick<Approx<exp2_of>>},
    {"tanh", 1, pick<Approx<tanh_of>>},
};

bool rule_sign(Lower& lw) {
  bool neg = lw.opcode() == "neg";
  lw.take("ftz");
  Type t = lw.take_type();
  if (!lw.expect_operands(2, 2)) return false;
  Handler h = type_bytes(t) == 2 ? (neg ? unary<uint16_t, uint16_t, [](uint16_t a) { return uint16_t(a ^ 0x8000); }>
                                        : unary<uint16_t, uint16_t, [](uint16_t a) { return uint16_t(a & 0x7fff); }>)
                                 : (neg ? unary<uint32_t, uint32_t, [](uint32_t a) { return a ^ 0x80008000u; }>
                                        : unary<uint32_t, uint32_t, [](uint32_t a) { return a & 0x7fff7fffu; }>);
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t));
}

}  // namespace

bool half_arithmetic(Lower& lw) {
  if (lw.opcode() == "abs" || lw.opcode() == "neg") return rule_sign(lw);
  for (const Operation& op : kOperations) {
    if (op.opcode != lw.opcode()) continue;
    lw.take("rn");
    lw.take("approx");
    uint32_t options = 0;
    if (lw.take("ftz")) options |= kFlush;
    if (lw.take("sat")) options |= kSaturate;
    if (lw.take("relu")) options |= kRelu;
    if (lw.take("NaN")) options |= kNanWins;
    if (lw.take("xorsign")) {
      if (!lw.take("abs")) return false;
      options |= kXorSign;
    }
    Type t = lw.take_type();
    Handler h = op.pick(t);
    if (!h || !lw.expect_operands(op.inputs + 1, op.inputs + 1)) return false;
    Location a = lw.src(1, t), b = op.inputs > 1 ? lw.src(2, t) : a, c = op.inputs > 2 ? lw.src(3, t) : a;
    lw.emit(h, lw.dst(0, t), a, b, c).flags = options;
    return true;
  }
  return false;
}

std::span<const NamedRule> half_rules() { return {}; }

}  // namespace bf::ptx
