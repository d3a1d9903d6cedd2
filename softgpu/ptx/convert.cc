// cvt in all its forms. Registers may be wider than the types that cvt names: such operands go through temporaries of
// the type's own width, so that the handlers know one width per type. 8-bit values live in 16-bit lanes.
#include <limits>

#include "softgpu/ptx/handlers.h"
#include "softgpu/ptx/numeric.h"

namespace bf::ptx {
namespace {

enum Option : uint32_t { kIntegral = 1, kFlush = 2, kSaturate = 4, kRelu = 8, kFinite = 16 };

// A type as cvt sees it: the value it means and the lane it lives in.
template <typename V, typename L = V>
struct Kind {
  using Value = V;
  using Lane = L;
  static V get(L lane) { return V(lane); }
};
using U8 = Kind<uint8_t, uint16_t>;
using S8 = Kind<int8_t, int16_t>;
struct KindF16 {
  using Lane = uint16_t;
  static double get(uint16_t lane) { return double(half_to_float(lane)); }
  static uint16_t put(double x, Round round, uint32_t options) {
    return uint16_t(round_to(kF16, x, round, options & kFinite));
  }
};
struct KindBf16 {
  using Lane = uint16_t;
  static double get(uint16_t lane) { return double(bf16_to_float(lane)); }
  static uint16_t put(double x, Round round, uint32_t options) {
    return uint16_t(round_to(kBf16, x, round, options & kFinite));
  }
};
struct KindTf32 {
  using Lane = uint32_t;
  static uint32_t put(double x, Round round, uint32_t options) {
    return x != x ? kNanF32 : round_to(kTf32, x, round, options & kFinite) << 13;
  }
};
struct KindF32 {
  using Lane = float;
  static double get(float lane) { return double(lane); }
  static float put(double x, Round, uint32_t options) {  // under the processor's rounding direction
    float y = float(x);
    if (options & kFlush) y = flush(y);
    return canonical(y);
  }
};
struct KindF64 {
  using Lane = double;
  static double get(double lane) { return lane; }
  static double put(double x, Round, uint32_t) { return x; }
};

// -------------------------------------------------------------------------------------------------- integers

template <typename D, typename S>
void int_to_int(Warp& w, const Inst& in) {
  const auto* a = at<typename S::Lane>(w, in.a);
  each<typename D::Lane>(w, in.d, [=](int i) { return typename D::Lane(typename D::Value(S::get(a[i]))); });
}
template <typename D, typename S>
void int_to_int_saturated(Warp& w, const Inst& in) {
  using V = typename D::Value;
  const auto* a = at<typename S::Lane>(w, in.a);
  each<typename D::Lane>(w, in.d, [=](int i) {
    __int128 v = S::get(a[i]);
    v = v > std::numeric_limits<V>::max() ? __int128(std::numeric_limits<V>::max()) : v;
    v = v < std::numeric_limits<V>::min() ? __int128(std::numeric_limits<V>::min()) : v;
    return typename D::Lane(V(v));
  });
}

template <typename F>
Handler for_int_kind(Type t, F f) {
  switch (t) {
    case Type::kU8:
    case Type::kB8:
      return f(U8{});
    case Type::kS8:
      return f(S8{});
    case Type::kU16:
    case Type::kB16:
      return f(Kind<uint16_t>{});
    case Type::kS16:
      return f(Kind<int16_t>{});
    case Type::kU32:
    case Type::kB32:
      return f(Kind<uint32_t>{});
    case Type::kS32:
      return f(Kind<int32_t>{});
    case Type::kU64:
    case Type::kB64:
      return f(Kind<uint64_t>{});
    case Type::kS64:
      return f(Kind<int64_t>{});
    default:
      return nullptr;
  }
}

// An integer as a double whose lowest bit says that something was lost: rounding it again is exact.
template <typename V>
double to_odd_double(V v) {
  if constexpr (sizeof(V) < 8) return double(v);
  bool negative = v < 0;
  uint64_t m = negative ? 0 - uint64_t(v) : uint64_t(v);
  int shift = m >> 53 ? 64 - 53 - __builtin_clzll(m) : 0;
  uint64_t kept = m >> shift;
  if (kept << shift != m) kept |= 1;
  double d = std::ldexp(double(kept), shift);
  return negative ? -d : d;
}

template <typename T, typename S>
void int_to_float(Warp& w, const Inst& in) {
  const auto* a = at<typename S::Lane>(w, in.a);
  const bool saturate = in.flags & kSaturate;
  auto run = [&] {
    each<T>(w, in.d, [=](int i) {
      const auto v = S::get(a[i]);
      const T x = v == 0 ? T(0) : T(v);  // rounding down, Clang makes -0 of an unsigned 0
      return saturate ? (x > 0 ? (x < 1 ? x : T(1)) : T(0)) : x;
    });
  };
  if (in.imm == uint64_t(Round::kNearest)) return run();
  RoundingScope scope{Round(in.imm)};
  run();
}
template <typename K, typename S>
void int_to_small(Warp& w, const Inst& in) {
  const auto* a = at<typename S::Lane>(w, in.a);
  const Round round = Round(in.imm);
  const uint32_t options = in.flags;
  each<typename K::Lane>(w, in.d, [=](int i) {
    double x = to_odd_double(S::get(a[i]));
    if (options & kSaturate) x = x > 0 ? (x < 1 ? x : 1) : 0;
    return K::put(x, round, options);
  });
}

inline double round_integral(double x, Round round) {
  switch (round) {
    case Round::kZero:
      return __builtin_trunc(x);
    case Round::kDown:
      return __builtin_floor(x);
    case Round::kUp:
      return __builtin_ceil(x);
    default:
      return __builtin_rint(x);
  }
}

// Out of range: the nearest value. NaN: 0, but the top bit where 64 bits take part.
template <typename V>
V to_integer(double x, V nan) {
  if (x != x) return nan;
  constexpr double limit =
      sizeof(V) == 8 ? (std::is_signed_v<V> ? 0x1p63 : 0x1p64) : double(std::numeric_limits<V>::max());
  if (x >= limit) return std::numeric_limits<V>::max();
  if (x <= double(std::numeric_limits<V>::min())) return std::numeric_limits<V>::min();
  return V(x);
}

template <typename D, typename S>
void float_to_int(Warp& w, const Inst& in) {
  using V = typename D::Value;
  const auto* a = at<typename S::Lane>(w, in.a);
  const Round round = Round(in.imm);
  const bool ftz = in.flags & kFlush;
  const bool wide = sizeof(V) == 8 || std::is_same_v<S, KindF64>;
  const V nan = wide ? V(V(1) << (sizeof(V) * 8 - 1)) : V(0);
  lanes(w.mask, [&](int i) {
    double x = S::get(a[i]);
    if (ftz && std::is_same_v<S, KindF32>) x = flush(float(x));
    at<typename D::Lane>(w, in.d)[i] = typename D::Lane(to_integer<V>(round_integral(x, round), nan));
  });
}

// ---------------------------------------------------------------------------------------------------- floats

template <typename D, typename S>
void float_to_float(Warp& w, const Inst& in) {
  const auto* a = at<typename S::Lane>(w, in.a);
  auto* d = at<typename D::Lane>(w, in.d);
  const Round round = Round(in.imm);
  const uint32_t options = in.flags;
  RoundingScope scope{round};
  lanes(w.mask, [&](int i) {
    double x = S::get(a[i]);
    if ((options & kFlush) && std::is_same_v<S, KindF32>) x = flush(float(x));
    if (options & kIntegral) x = round_integral(x, round);
    if (options & kSaturate) x = x > 0 ? (x < 1 ? x : 1) : 0;
    if ((options & kRelu) && x <= 0) x = 0;
    d[i] = D::put(x, round, options);
  });
}

// The common plain conversions, which the compiler turns into vector code.
void f32_to_f64(Warp& w, const Inst& in) {
  const float* a = at<float>(w, in.a);
  each<double>(w, in.d, [=](int i) { return double(a[i]); });
}
void f64_to_f32(Warp& w, const Inst& in) {
  const double* a = at<double>(w, in.a);
  each<float>(w, in.d, [=](int i) { return canonical(float(a[i])); });
}
void f16_to_f32(Warp& w, const Inst& in) {
  const uint16_t* a = at<uint16_t>(w, in.a);
  each<float>(w, in.d, [=](int i) { return canonical(half_to_float(a[i])); });
}
void f32_to_f16(Warp& w, const Inst& in) {
  const float* a = at<float>(w, in.a);
  each<uint16_t>(w, in.d, [=](int i) { return float_to_half(a[i]); });
}
void bf16_to_f32(Warp& w, const Inst& in) {
  const uint16_t* a = at<uint16_t>(w, in.a);
  each<float>(w, in.d, [=](int i) { return canonical(bf16_to_float(a[i])); });
}
void f32_to_bf16(Warp& w, const Inst& in) {
  const float* a = at<float>(w, in.a);
  each<uint16_t>(w, in.d, [=](int i) { return float_to_bf16(a[i]); });
}

template <typename F>
Handler for_float_source(Type t, F f) {
  switch (t) {
    case Type::kF16:
      return f(KindF16{});
    case Type::kBf16:
      return f(KindBf16{});
    case Type::kF32:
      return f(KindF32{});
    case Type::kF64:
      return f(KindF64{});
    default:
      return nullptr;
  }
}

Handler plain_float(Type d, Type s) {
  if (s == Type::kF32 && d == Type::kF64) return f32_to_f64;
  if (s == Type::kF64 && d == Type::kF32) return f64_to_f32;
  if (s == Type::kF16 && d == Type::kF32) return f16_to_f32;
  if (s == Type::kF32 && d == Type::kF16) return f32_to_f16;
  if (s == Type::kBf16 && d == Type::kF32) return bf16_to_f32;
  if (s == Type::kF32 && d == Type::kBf16) return f32_to_bf16;
  return nullptr;
}

Handler float_handler(Type d, Type s, Round round, uint32_t options) {
  if (round == Round::kNearest && options == 0)
    if (Handler h = plain_float(d, s)) return h;
  return for_float_source(s, [&](auto source) -> Handler {
    using S = decltype(source);
    switch (d) {
      case Type::kF16:
        return float_to_float<KindF16, S>;
      case Type::kBf16:
        return float_to_float<KindBf16, S>;
      case Type::kTf32:
        return float_to_float<KindTf32, S>;
      case Type::kF32:
        return float_to_float<KindF32, S>;
      case Type::kF64:
        return float_to_float<KindF64, S>;
      default:
        return nullptr;
    }
  });
}

Handler scalar_handler(Type d, Type s, Round round, uint32_t options) {
  bool from_float = type_kind(s) == 'f', to_float = type_kind(d) == 'f';
  if (from_float && to_float) return float_handler(d, s, round, options);
  if (from_float) {
    return for_int_kind(d, [&](auto dest) -> Handler {
      using D = decltype(dest);
      return for_float_source(s, [](auto source) -> Handler { return float_to_int<D, decltype(source)>; });
    });
  }
  return for_int_kind(s, [&](auto source) -> Handler {
    using S = decltype(source);
    switch (d) {
      case Type::kF16:
        return int_to_small<KindF16, S>;
      case Type::kBf16:
        return int_to_small<KindBf16, S>;
      case Type::kF32:
        return int_to_float<float, S>;
      case Type::kF64:
        return int_to_float<double, S>;
      default:
        break;
    }
    return for_int_kind(d, [&](auto dest) -> Handler {
      using D = decltype(dest);
      return options & kSaturate ? int_to_int_saturated<D, S> : int_to_int<D, S>;
    });
  });
}

// ----------------------------------------------------------------------------------------------- packed forms

// Two values into one register: a is the upper. imm: Round; flags: options.
template <const Format& F, typename Out, int Bits>
void pack_floats(Warp& w, const Inst& in) {
  const float *a = at<float>(w, in.a), *b = at<float>(w, in.b);
  const Round round = Round(in.imm);
  const uint32_t options = in.flags;
  auto one = [=](float x) {
    if ((options & kRelu) && x <= 0) x = 0;
    return round_to(F, x, round, options & kFinite);
  };
  each<Out>(w, in.d, [=](int i) { return Out(one(a[i]) << Bits | one(b[i])); });
}
template <const Format& F>
void halves_to_small(Warp& w, const Inst& in) {  // f16x2 -> e4m3x2, e5m2x2
  const uint32_t* a = at<uint32_t>(w, in.a);
  const uint32_t options = in.flags;
  auto one = [=](uint32_t h) {
    double x = half_to_float(uint16_t(h));
    if ((options & kRelu) && x <= 0) x = 0;
    return round_to(F, x, Round::kNearest, true);
  };
  each<uint16_t>(w, in.d, [=](int i) { return uint16_t(one(a[i] >> 16) << 8 | one(a[i])); });
}
template <const Format& F>
void small_to_halves(Warp& w, const Inst& in) {
  const uint16_t* a = at<uint16_t>(w, in.a);
  const uint32_t options = in.flags;
  auto one = [=](uint32_t bits) {
    double x = widen_from(F, bits & 0xff);
    if ((options & kRelu) && x <= 0) x = 0;
    return round_to(kF16, x, Round::kNearest);
  };
  each<uint32_t>(w, in.d, [=](int i) { return one(a[i] >> 8) << 16 | one(a[i]); });
}

// cvt.pack.sat.T.s32{.b32} d, a, b{, c}: imm is the width of T, flags 1 if signed.
void pack_integers(Warp& w, const Inst& in) {
  const int32_t *a = at<int32_t>(w, in.a), *b = at<int32_t>(w, in.b);
  const uint32_t* c = in.c ? at<uint32_t>(w, in.c) : nullptr;
  const int bits = int(in.imm);
  const int32_t high = in.flags ? (1 << (bits - 1)) - 1 : (1 << bits) - 1, low = in.flags ? -(1 << (bits - 1)) : 0;
  const uint32_t mask = (1u << bits) - 1;
  each<uint32_t>(w, in.d, [=](int i) {
    uint32_t x = uint32_t(a[i] < low ? low : a[i] > high ? high : a[i]) & mask;
    uint32_t y = uint32_t(b[i] < low ? low : b[i] > high ? high : b[i]) & mask;
    uint32_t pair = x << bits | y;
    return c ? c[i] << 2 * bits | pair : pair;
  });
}

bool rule_pack(Lower& lw) {
  if (!lw.take("sat")) return false;
  Type t = lw.take_type();
  if (lw.take_type() != Type::kS32) return false;
  bool third = lw.take("b32");
  uint32_t bits = type_bytes(t) * 8;
  char kind = type_kind(t);
  if ((bits != 16 && bits != 8) || (kind != 'u' && kind != 's') || (bits == 16 && third) ||
      !lw.expect_operands(third ? 4 : 3, third ? 4 : 3))
    return false;
  Location c = third ? lw.src(3, Type::kB32) : 0;
  Inst& inst = lw.emit(pack_integers, lw.dst(0, Type::kB32), lw.src(1, Type::kS32), lw.src(2, Type::kS32), c);
  inst.imm = bits;
  inst.flags = kind == 's';
  return true;
}

bool rule_packed(Lower& lw, Type d, Type s, Round round, uint32_t options) {
  bool from_f32 = s == Type::kF32;
  Handler h = nullptr;
  if (from_f32 && d == Type::kF16x2) h = pack_floats<kF16, uint32_t, 16>;
  if (from_f32 && d == Type::kBf16x2) h = pack_floats<kBf16, uint32_t, 16>;
  if (from_f32 && d == Type::kE4m3x2) h = pack_floats<kE4m3, uint16_t, 8>;
  if (from_f32 && d == Type::kE5m2x2) h = pack_floats<kE5m2, uint16_t, 8>;
  if (s == Type::kF16x2 && d == Type::kE4m3x2) h = halves_to_small<kE4m3>;
  if (s == Type::kF16x2 && d == Type::kE5m2x2) h = halves_to_small<kE5m2>;
  if (s == Type::kE4m3x2 && d == Type::kF16x2) h = small_to_halves<kE4m3>;
  if (s == Type::kE5m2x2 && d == Type::kF16x2) h = small_to_halves<kE5m2>;
  if (!h || !lw.expect_operands(from_f32 ? 3 : 2, from_f32 ? 3 : 2)) return false;
  Location b = from_f32 ? lw.src(2, s) : 0;
  Inst& inst = lw.emit(h, lw.dst(0, d), lw.src(1, s), b);
  inst.imm = uint64_t(round);
  inst.flags = options;
  return true;
}

// ------------------------------------------------------------------------------------------------------ rules

uint32_t lane_bytes(Type t) { return type_bytes(t) == 1 ? 2 : type_bytes(t); }

Type unsigned_of(uint32_t bytes) {
  return bytes == 2 ? Type::kU16 : bytes == 4 ? Type::kU32 : bytes == 8 ? Type::kU64 : Type::kNone;
}

// The source in a lane of its type's width, with the bits above an 8-bit type cleaned.
Location narrow_source(Lower& lw, const ast::Operand& operand, Type t) {
  Type reg = lw.register_type(operand);
  if (reg == Type::kNone || reg == Type::kPred) return lw.src(operand, t);
  bool integer = type_kind(t) != 'f';
  if (lane_bytes(reg) == lane_bytes(t) && type_bytes(t) > 1) return lw.src(operand, t);
  if (lane_bytes(reg) < lane_bytes(t)) return lw.refuse("the source register is too narrow"), 0;
  Type bits = integer ? t : unsigned_of(type_bytes(t));
  Handler h = scalar_handler(bits, unsigned_of(lane_bytes(reg)), Round::kNearest, 0);
  if (!h) return lw.refuse(), 0;
  Location narrow = lw.temporary(lane_bytes(t));
  lw.emit(h, narrow, lw.src(operand, reg));
  return narrow;
}

// Emits the conversion into a register that may be wider than the type.
bool emit_to_destination(Lower& lw, Handler h, Type d, Location a, Round round, uint32_t options) {
  Type reg = lw.register_type(lw.operand(0));
  bool same = reg == Type::kNone || lane_bytes(reg) == lane_bytes(d);
  Location to = same ? lw.dst(0, d) : lw.temporary(lane_bytes(d));
  Inst& inst = lw.emit(h, to, a);
  inst.imm = uint64_t(round);
  inst.flags = options;
  if (same) return true;
  if (reg == Type::kPred || lane_bytes(reg) < lane_bytes(d)) return lw.refuse("the destination register is too narrow");
  bool sign = type_kind(d) == 's';
  Type from = sign ? (lane_bytes(d) == 2 ? Type::kS16 : Type::kS32) : unsigned_of(lane_bytes(d));
  Type into = sign ? (lane_bytes(reg) == 4 ? Type::kS32 : Type::kS64) : unsigned_of(lane_bytes(reg));
  Handler extend = scalar_handler(into, from, Round::kNearest, 0);
  if (!extend) return lw.refuse();
  lw.emit(extend, lw.dst(0, reg), to);
  return true;
}

bool rule_cvt(Lower& lw) {
  if (lw.take("pack")) return rule_pack(lw);
  int integral = lw.take_any({"rni", "rzi", "rmi", "rpi"});
  int fractional = lw.take_any({"rn", "rz", "rm", "rp", "rna"});
  Round round = Round(integral >= 0 ? integral : fractional >= 0 ? fractional : 0);
  uint32_t options = integral >= 0 ? uint32_t(kIntegral) : 0;
  if (lw.take("ftz")) options |= kFlush;
  if (lw.take("satfinite")) options |= kFinite;
  if (lw.take("relu")) options |= kRelu;
  if (lw.take("sat")) options |= kSaturate;
  Type d = lw.take_type(), s = lw.take_type();
  auto packed = [](Type t) {
    return t == Type::kF16x2 || t == Type::kBf16x2 || t == Type::kE4m3x2 || t == Type::kE5m2x2;
  };
  if (packed(d) || packed(s)) return rule_packed(lw, d, s, round, options);
  if (!lw.expect_operands(2, 2)) return false;
  // Without a rounding modifier, floating point to integer is not legal PTX; round toward zero is the C meaning.
  if (type_kind(s) == 'f' && type_kind(d) != 'f' && integral < 0) round = Round::kZero;
  Handler h = scalar_handler(d, s, round, options);
  if (!h) return false;
  Location a = narrow_source(lw, lw.operand(1), s);
  return emit_to_destination(lw, h, d, a, round, options);
}

constexpr NamedRule kRules[] = {{"cvt", rule_cvt}};

}  // namespace

std::span<const NamedRule> convert_rules() { return kRules; }

}  // namespace bf::ptx
