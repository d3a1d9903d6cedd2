// f32 and f64 arithmetic. add, sub, mul, fma, div.rn, sqrt.rn, rcp.rn are the processor's own, IEEE exact in all
// rounding directions; .ftz flushes subnormal inputs and results to zero of the same sign. The .approx functions are
// computed in double precision and rounded once, which is within NVIDIA's documented error but not bit-identical to any
// GPU.
#include <algorithm>

#include "softgpu/ptx/handlers.h"
#include "softgpu/ptx/numeric.h"

namespace bf::ptx {
namespace {

template <typename T, bool Ftz, bool Sat>
inline __attribute__((always_inline)) T finish(T x) {
  if (Ftz) x = flush(x);
  if (Sat) x = x > 0 ? (x < 1 ? x : T(1)) : T(0);  // NaN becomes 0
  return canonical(x);
}
template <bool Ftz, typename T>
inline __attribute__((always_inline)) T enter(T x) {
  return Ftz ? flush(x) : x;
}

struct Add {
  template <typename T>
  static T apply(T a, T b) {
    return a + b;
  }
};
struct Sub {
  template <typename T>
  static T apply(T a, T b) {
    return a - b;
  }
};
struct Mul {
  template <typename T>
  static T apply(T a, T b) {
    return a * b;
  }
};
struct Div {
  template <typename T>
  static T apply(T a, T b) {
    return a / b;
  }
};
struct Fma {
  static float apply(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static double apply(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
struct Sqrt {
  static float apply(float a) { return __builtin_sqrtf(a); }
  static double apply(double a) { return __builtin_sqrt(a); }
};
struct Rcp {
  template <typename T>
  static T apply(T a) {
    return T(1) / a;
  }
};

// imm: Round; others than nearest go through a scope.
template <typename F>
inline __attribute__((always_inline)) void with_rounding(const Inst& in, F f) {
  if (in.imm == uint64_t(Round::kNearest)) return f();
  RoundingScope scope{Round(in.imm)};
  f();
}

template <typename Op, typename T, bool Ftz, bool Sat>
void float_unary(Warp& w, const Inst& in) {
  const T* a = at<T>(w, in.a);
  with_rounding(in, [&] { each<T>(w, in.d, [=](int i) { return finish<T, Ftz, Sat>(Op::apply(enter<Ftz>(a[i]))); }); });
}
template <typename Op, typename T, bool Ftz, bool Sat>
void float_binary(Warp& w, const Inst& in) {
  const T *a = at<T>(w, in.a), *b = at<T>(w, in.b);
  with_rounding(in, [&] {
    each<T>(w, in.d, [=](int i) { return finish<T, Ftz, Sat>(Op::apply(enter<Ftz>(a[i]), enter<Ftz>(b[i]))); });
  });
}
template <typename Op, typename T, bool Ftz, bool Sat>
void float_ternary(Warp& w, const Inst& in) {
  const T *a = at<T>(w, in.a), *b = at<T>(w, in.b), *c = at<T>(w, in.c);
  with_rounding(in, [&] {
    each<T>(w, in.d, [=](int i) {
      return finish<T, Ftz, Sat>(Op::apply(enter<Ftz>(a[i]), enter<Ftz>(b[i]), enter<Ftz>(c[i])));
    });
  });
}

template <template <typename, typename, bool, bool> class Pick, typename Op>
Handler pick_float(Type t, bool ftz, bool sat) {
  if (t == Type::kF64) return ftz || sat ? nullptr : Pick<Op, double, false, false>::handler;
  if (t != Type::kF32) return nullptr;
  if (ftz) return sat ? Pick<Op, float, true, true>::handler : Pick<Op, float, true, false>::handler;
  return sat ? Pick<Op, float, false, true>::handler : Pick<Op, float, false, false>::handler;
}
template <typename Op, typename T, bool Ftz, bool Sat>
struct One {
  static constexpr Handler handler = float_unary<Op, T, Ftz, Sat>;
};
template <typename Op, typename T, bool Ftz, bool Sat>
struct Two {
  static constexpr Handler handler = float_binary<Op, T, Ftz, Sat>;
};
template <typename Op, typename T, bool Ftz, bool Sat>
struct Three {
  static constexpr Handler handler = float_ternary<Op, T, Ftz, Sat>;
};

struct Modifiers {
  int round;
  bool ftz, sat;
  Type type;
};
Modifiers take_modifiers(Lower& lw) {
  Modifiers m;
  m.round = lw.take_any({"rn", "rz", "rm", "rp"});
  m.ftz = lw.take("ftz");
  m.sat = lw.take("sat");
  m.type = lw.take_type();
  return m;
}

bool emit_rounded(Lower& lw, Handler h, int round, Type t, size_t operands) {
  if (!h || !lw.expect_operands(operands, operands)) return false;
  Location a = lw.src(1, t), b = operands > 2 ? lw.src(2, t) : 0, c = operands > 3 ? lw.src(3, t) : 0;
  lw.emit(h, lw.dst(0, t), a, b, c).imm = round > 0 ? uint64_t(round) : 0;
  return true;
}

template <typename Op>
bool rule_binary(Lower& lw) {
  Modifiers m = take_modifiers(lw);
  return emit_rounded(lw, pick_float<Two, Op>(m.type, m.ftz, m.sat), m.round, m.type, 3);
}

bool rule_fma(Lower& lw) {
  Modifiers m = take_modifiers(lw);
  return emit_rounded(lw, pick_float<Three, Fma>(m.type, m.ftz, m.sat), m.round, m.type, 4);
}

// ---------------------------------------------------------------------------------------- approximations (f32)

template <auto F>
struct ViaDouble {
  static float apply(float a) { return float(F(double(a))); }
};
double reciprocal_root(double x) { return 1.0 / std::sqrt(x); }
double sine(double x) { return std::sin(x); }
double cosine(double x) { return std::cos(x); }
double exp2_of(double x) { return std::exp2(x); }
double log2_of(double x) { return std::log2(x); }
double tanh_of(double x) { return std::tanh(x); }

// div.approx: 0 where |b| is so large that 1/b is subnormal, as documented for 2^126 < |b| < 2^128.
struct DivApprox {
  static float apply(float a, float b) {
    float magnitude = __builtin_fabsf(b);
    if (magnitude > 0x1p126f && magnitude < HUGE_VALF) return a * __builtin_copysignf(0.0f, b);
    return float(double(a) / double(b));
  }
};

bool rule_div(Lower& lw) {
  int approx = lw.take_any({"approx", "full"});
  Modifiers m = take_modifiers(lw);
  if (m.sat) return false;
  if (approx == 0)
    return m.type == Type::kF32 && emit_rounded(lw, pick_float<Two, DivApprox>(m.type, m.ftz, false), 0, m.type, 3);
  return emit_rounded(lw, pick_float<Two, Div>(m.type, m.ftz, false), m.round, m.type, 3);
}

// rcp.approx.ftz.f64 and rsqrt.approx.f64 keep the upper half of the result only.
template <bool Root>
struct Approx64 {
  static double apply(double x) {
    double y = Root ? 1.0 / std::sqrt(x) : 1.0 / x;
    if (y != y) return std::bit_cast<double>(uint64_t{0x7fffffff} << 32);
    return std::bit_cast<double>(std::bit_cast<uint64_t>(y) & ~uint64_t{0xffffffff});
  }
};
template <bool Root>
struct Approx64Flushed {
  static double apply(double x) {
    if (__builtin_fabs(x) < 0x1p-1022) x = __builtin_copysign(0.0, x);
    double y = Approx64<Root>::apply(x);
    return __builtin_fabs(y) < 0x1p-1022 ? __builtin_copysign(0.0, y) : y;
  }
};

bool rule_rcp(Lower& lw) {
  bool approx = lw.take("approx");
  Modifiers m = take_modifiers(lw);
  if (m.type == Type::kF64 && approx)
    return m.ftz && emit_rounded(lw, float_unary<Approx64Flushed<false>, double, false, false>, 0, m.type, 2);
  return !m.sat && emit_rounded(lw, pick_float<One, Rcp>(m.type, m.ftz, false), m.round, m.type, 2);
}

bool rule_sqrt(Lower& lw) {
  lw.take("approx");
  Modifiers m = take_modifiers(lw);
  return !m.sat && emit_rounded(lw, pick_float<One, Sqrt>(m.type, m.ftz, false), m.round, m.type, 2);
}

bool rule_rsqrt(Lower& lw) {
  lw.take("approx");
  Modifiers m = take_modifiers(lw);
  Handler h = m.type == Type::kF32   ? pick_float<One, ViaDouble<reciprocal_root>>(m.type, m.ftz, false)
              : m.type != Type::kF64 ? nullptr
              : m.ftz                ? Handler(float_unary<Approx64Flushed<true>, double, false, false>)
                                     : Handler(float_unary<Approx64<true>, double, false, false>);
  return !m.sat && emit_rounded(lw, h, 0, m.type, 2);
}

template <auto F>
bool rule_approx(Lower& lw) {
  if (Type t = lw.peek_type(); t != Type::kF32) return half_arithmetic(lw);
  lw.take("approx");
  Modifiers m = take_modifiers(lw);
  return !m.sat && emit_rounded(lw, pick_float<One, ViaDouble<F>>(m.type, m.ftz, false), 0, m.type, 2);
}

// ------------------------------------------------------------------------------------------------- min, max, signs

template <typename T, bool Max>
inline T extreme(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return Max ? (std::signbit(a) ? b : a) : (std::signbit(a) ? a : b);  // -0 < +0
  return Max ? (a > b ? a : b) : (a < b ? a : b);
}

// flags: 1 NaN wins, 2 sign is the exclusive or of the inputs' signs (of magnitudes).
template <typename T, bool Max, bool Ftz>
void min_max(Warp& w, const Inst& in) {
  const T *a = at<T>(w, in.a), *b = at<T>(w, in.b);
  const T* c = in.c ? at<T>(w, in.c) : nullptr;
  const bool nan_wins = in.flags & 1, xorsign = in.flags & 2;
  each<T>(w, in.d, [=](int i) {
    T x = enter<Ftz>(a[i]), y = enter<Ftz>(b[i]);
    bool nan = x != x || y != y;
    bool negative = std::signbit(x) != std::signbit(y);
    if (xorsign) x = std::abs(x), y = std::abs(y);
    T r = extreme<T, Max>(x, y);
    if (c) {
      T z = enter<Ftz>(c[i]);
      nan |= z != z;
      r = extreme<T, Max>(r, z);
    }
    if (nan && nan_wins) return canonical(std::numeric_limits<T>::quiet_NaN());
    if (xorsign && r == r) r = negative ? -r : r;
    return canonical(r);
  });
}

bool rule_min_max(Lower& lw) {
  bool max = lw.opcode() == "max", ftz = lw.take("ftz");
  uint32_t flags = lw.take("NaN") ? 1 : 0;
  bool xorsign = lw.take("xorsign");
  if (xorsign && !lw.take("abs")) return false;
  flags |= xorsign ? 2 : 0;
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 4) || (t == Type::kF64 && (ftz || flags))) return false;
  Handler h = t == Type::kF64 ? (max ? min_max<double, true, false> : min_max<double, false, false>)
              : ftz           ? (max ? min_max<float, true, true> : min_max<float, false, true>)
                              : (max ? min_max<float, true, false> : min_max<float, false, false>);
  Location c = lw.operand_count() == 4 ? lw.src(3, t) : 0;
  lw.emit(h, lw.dst(0, t), lw.src(1, t), lw.src(2, t), c).flags = flags;
  return true;
}

bool rule_sign(Lower& lw) {
  bool neg = lw.opcode() == "neg", ftz = lw.take("ftz");
  Type t = lw.take_type();
  if (!lw.expect_operands(2, 2)) return false;
  Handler h;
  if (t == Type::kF64) {
    h = neg ? unary<double, double, [](double a) { return -a; }>
            : unary<double, double, [](double a) { return __builtin_fabs(a); }>;
  } else if (ftz) {
    h = neg ? unary<float, float, [](float a) { return canonical(-flush(a)); }>
            : unary<float, float, [](float a) { return canonical(__builtin_fabsf(flush(a))); }>;
  } else {
    h = neg ? unary<uint32_t, uint32_t, [](uint32_t a) { return a ^ 0x80000000u; }>
            : unary<uint32_t, uint32_t, [](uint32_t a) { return a & 0x7fffffffu; }>;
  }
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t));
}

bool rule_copysign(Lower& lw) {  // the sign of a on the magnitude of b
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 3)) return false;
  using U = uint32_t;
  using L = uint64_t;
  Handler h = t == Type::kF32   ? binary<U, U, [](U a, U b) { return (a & 0x80000000u) | (b & 0x7fffffffu); }>
              : t == Type::kF64 ? binary<L, L, [](L a, L b) { return (a & (L(1) << 63)) | (b & ~(L(1) << 63)); }>
                                : nullptr;
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, t));
}

constexpr NamedRule kFloats[] = {
    {"add", rule_binary<Add>}, {"sub", rule_binary<Sub>}, {"mul", rule_binary<Mul>}, {"fma", rule_fma},
    {"mad", rule_fma},         {"div", rule_div},         {"min", rule_min_max},     {"max", rule_min_max},
    {"abs", rule_sign},        {"neg", rule_sign},
};

constexpr NamedRule kRules[] = {
    {"rcp", rule_rcp},
    {"sqrt", rule_sqrt},
    {"rsqrt", rule_rsqrt},
    {"sin", rule_approx<sine>},
    {"cos", rule_approx<cosine>},
    {"ex2", rule_approx<exp2_of>},
    {"lg2", rule_approx<log2_of>},
    {"tanh", rule_approx<tanh_of>},
    {"copysign", rule_copysign},
};

}  // namespace

bool float_arithmetic(Lower& lw) {
  for (const NamedRule& rule : kFloats)
    if (rule.opcode == lw.opcode()) return rule.rule(lw);
  return false;
}

std::span<const NamedRule> float_rules() { return kRules; }

}  // namespace bf::ptx
