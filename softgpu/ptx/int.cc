// Integer arithmetic. Compiled with -fwrapv: signed overflow wraps, as PTX says.
#include <algorithm>
#include <limits>

#include "softgpu/ptx/handlers.h"

namespace bf::ptx {
namespace {

template <typename T>
using Wide =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                          std::conditional_t<std::is_signed_v<T>, __int128, u128>>>;

template <typename T>
T high(T a, T b) {
  return T((Wide<T>(a) * Wide<T>(b)) >> (sizeof(T) * 8));
}

// Division by zero yields all ones, and the remainder the dividend, as GPUs do.
template <typename T>
T divide(T a, T b) {
  if (b == 0) return T(~T{0});
  if (std::is_signed_v<T> && b == T(-1)) return T(-a);
  return T(a / b);
}
template <typename T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == T(-1)) return T{0};
  return T(a % b);
}

template <typename T>
T saturated(int64_t v) {
  if (v > std::numeric_limits<T>::max()) return std::numeric_limits<T>::max();
  if (v < std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
  return T(v);
}

inline int32_t low24(int32_t v) { return v << 8 >> 8; }
inline uint32_t low24(uint32_t v) { return v & 0xffffff; }

// ------------------------------------------------------------------------------------------------- carry (CC.CF)

// d = a + b + carry (imm bit 0: reads CC, bit 1: writes CC).
template <typename T, bool Subtract>
void add_carry(Warp& w, const Inst& in) {
  const T *a = at<T>(w, in.a), *b = at<T>(w, in.b);
  T* d = at<T>(w, in.d);
  lanes(w.mask, [&](int i) {
    T carry = in.imm & 1 ? T(w.carry >> i & 1) : T(0);
    T sum, first;
    bool out;
    if (Subtract)
      out = __builtin_sub_overflow(a[i], b[i], &first) | __builtin_sub_overflow(first, carry, &sum);
    else
      out = __builtin_add_overflow(a[i], b[i], &first) | __builtin_add_overflow(first, carry, &sum);
    d[i] = sum;
    if (in.imm & 2) w.carry = (w.carry & ~(1u << i)) | uint32_t(out) << i;
  });
}

// d = (a * b).lo or .hi + c + carry.
template <typename T, bool High>
void mad_carry(Warp& w, const Inst& in) {
  using U = std::make_unsigned_t<T>;
  const T *a = at<T>(w, in.a), *b = at<T>(w, in.b);
  const U* c = at<U>(w, in.c);
  U* d = at<U>(w, in.d);
  lanes(w.mask, [&](int i) {
    U product = High ? U(high<T>(a[i], b[i])) : U(U(a[i]) * U(b[i]));
    U carry = in.imm & 1 ? U(w.carry >> i & 1) : U(0);
    U first, sum;
    bool out = __builtin_add_overflow(product, c[i], &first) | __builtin_add_overflow(first, carry, &sum);
    d[i] = sum;
    if (in.imm & 2) w.carry = (w.carry & ~(1u << i)) | uint32_t(out) << i;
  });
}

bool rule_carry(Lower& lw, bool subtract, bool reads) {
  bool writes = lw.take("cc");
  Type t = lw.take_type();
  Handler h = for_bits(type_kind(t) == 'f' ? 0 : type_bytes(t), [&](auto v) -> Handler {
    using T = decltype(v);
    if constexpr (sizeof(T) == 2)
      return nullptr;
    else
      return subtract ? add_carry<T, true> : add_carry<T, false>;
  });
  if (!h || !lw.expect_operands(3, 3)) return false;
  Inst& inst = lw.emit(h, lw.dst(0, t), lw.src(1, t), lw.src(2, t));
  inst.imm = uint64_t(reads) | uint64_t(writes) << 1;
  return true;
}

bool rule_mad_carry(Lower& lw, bool reads) {
  bool writes = lw.take("cc");
  int half = lw.take_any({"lo", "hi"});
  Type t = lw.take_type();
  if (half < 0 || !lw.expect_operands(4, 4)) return false;
  Handler h = for_int(t, [&](auto v) -> Handler {
    using T = decltype(v);
    if constexpr (sizeof(T) == 2)
      return nullptr;
    else
      return half ? mad_carry<T, true> : mad_carry<T, false>;
  });
  if (!h) return false;
  Inst& inst = lw.emit(h, lw.dst(0, t), lw.src(1, t), lw.src(2, t), lw.src(3, t));
  inst.imm = uint64_t(reads) | uint64_t(writes) << 1;
  return true;
}

// ------------------------------------------------------------------------------------------------------- rules

template <bool Subtract>
bool rule_add(Lower& lw) {
  for (auto m : lw.in().modifiers)
    if (m == "cc") return rule_carry(lw, Subtract, false);
  bool sat = lw.take("sat");
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 3)) return false;
  Handler h = nullptr;
  if (sat) {
    if (t != Type::kS32) return false;
    h = Subtract ? binary<int32_t, int32_t, [](int64_t a, int64_t b) { return saturated<int32_t>(a - b); }>
                 : binary<int32_t, int32_t, [](int64_t a, int64_t b) { return saturated<int32_t>(a + b); }>;
  } else if (t == Type::kU16x2 || t == Type::kS16x2) {
    if (Subtract) return false;
    h = binary<uint32_t, uint32_t,
               [](uint32_t a, uint32_t b) { return ((a & 0xffff0000u) + (b & 0xffff0000u)) | ((a + b) & 0xffffu); }>;
  } else {
    h = for_bits(type_kind(t) == 'f' ? 0 : type_bytes(t), [](auto v) -> Handler {
      using T = decltype(v);
      return Subtract ? binary<T, T, [](T a, T b) { return a - b; }> : binary<T, T, [](T a, T b) { return a + b; }>;
    });
  }
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, t));
}

Type widened(Type t) {
  switch (t) {
    case Type::kU16:
      return Type::kU32;
    case Type::kS16:
      return Type::kS32;
    case Type::kU32:
      return Type::kU64;
    case Type::kS32:
      return Type::kS64;
    default:
      return Type::kNone;
  }
}

bool rule_mul(Lower& lw) {
  int part = lw.take_any({"lo", "hi", "wide"});
  Type t = lw.take_type();
  Type result = part == 2 ? widened(t) : t;
  if (part < 0 || result == Type::kNone || !lw.expect_operands(3, 3)) return false;
  Handler h = for_int(t, [&](auto v) -> Handler {
    using T = decltype(v);
    if (part == 0)
      return binary<T, T, [](T a, T b) { return T(std::make_unsigned_t<T>(a) * std::make_unsigned_t<T>(b)); }>;
    if (part == 1) return binary<T, T, [](T a, T b) { return high<T>(a, b); }>;
    if constexpr (sizeof(T) == 8)
      return nullptr;
    else
      return binary<Wide<T>, T, [](T a, T b) { return Wide<T>(Wide<T>(a) * Wide<T>(b)); }>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, result), lw.src(1, t), lw.src(2, t));
}

bool rule_mad(Lower& lw) {
  for (auto m : lw.in().modifiers)
    if (m == "cc") return rule_mad_carry(lw, false);
  int part = lw.take_any({"lo", "hi", "wide"});
  bool sat = lw.take("sat");
  Type t = lw.take_type();
  Type result = part == 2 ? widened(t) : t;
  if (part < 0 || result == Type::kNone || !lw.expect_operands(4, 4)) return false;
  if (sat && (part != 1 || t != Type::kS32)) return false;
  Handler h = for_int(t, [&](auto v) -> Handler {
    using T = decltype(v);
    using U = std::make_unsigned_t<T>;
    if (part == 0) return ternary<U, U, U, [](U a, U b, U c) { return U(U(a * b) + c); }>;
    if constexpr (std::is_same_v<T, int32_t>)
      if (sat) return ternary<T, T, T, [](T a, T b, T c) { return saturated<T>(int64_t(high<T>(a, b)) + c); }>;
    if (part == 1) return ternary<T, T, T, [](T a, T b, T c) { return T(high<T>(a, b) + c); }>;
    if constexpr (sizeof(T) == 8)
      return nullptr;
    else
      return ternary<Wide<T>, T, Wide<T>, [](T a, T b, Wide<T> c) { return Wide<T>(Wide<T>(a) * Wide<T>(b) + c); }>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, result), lw.src(1, t), lw.src(2, t), lw.src(3, result));
}

template <typename T, bool High>
T product24(T a, T b) {
  auto p = Wide<T>(low24(a)) * Wide<T>(low24(b));
  return High ? T(p >> 16) : T(p);
}

bool rule_mul24(Lower& lw) {
  bool mad = lw.opcode() == "mad24";
  int part = lw.take_any({"lo", "hi"});
  Type t = lw.take_type();
  if (part < 0 || (t != Type::kU32 && t != Type::kS32)) return false;
  auto pick = [&](auto v) -> Handler {
    using T = decltype(v);
    if (mad) {
      return part ? ternary<T, T, T, [](T a, T b, T c) { return T(product24<T, true>(a, b) + c); }>
                  : ternary<T, T, T, [](T a, T b, T c) { return T(product24<T, false>(a, b) + c); }>;
    }
    return part ? binary<T, T, [](T a, T b) { return product24<T, true>(a, b); }>
                : binary<T, T, [](T a, T b) { return product24<T, false>(a, b); }>;
  };
  if (!lw.expect_operands(mad ? 4 : 3, mad ? 4 : 3)) return false;
  Handler h = t == Type::kU32 ? pick(uint32_t{}) : pick(int32_t{});
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, t), mad ? lw.src(3, t) : 0);
}

bool rule_sad(Lower& lw) {
  Type t = lw.take_type();
  if (!lw.expect_operands(4, 4)) return false;
  Handler h = for_int(t, [](auto v) -> Handler {
    using T = decltype(v);
    return ternary<T, T, T, [](T a, T b, T c) { return T(c + (a < b ? b - a : a - b)); }>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, t), lw.src(3, t));
}

bool rule_div(Lower& lw) {
  bool rem = lw.opcode() == "rem";
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 3)) return false;
  Handler h = for_int(t, [&](auto v) -> Handler {
    using T = decltype(v);
    return rem ? binary<T, T, [](T a, T b) { return remainder<T>(a, b); }>
               : binary<T, T, [](T a, T b) { return divide<T>(a, b); }>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, t));
}

bool rule_abs_neg(Lower& lw) {
  bool neg = lw.opcode() == "neg";
  Type t = lw.take_type();
  if (!lw.expect_operands(2, 2) || type_kind(t) != 's') return false;
  Handler h = for_int(t, [&](auto v) -> Handler {
    using T = decltype(v);
    return neg ? unary<T, T, [](T a) { return T(-a); }> : unary<T, T, [](T a) { return T(a < 0 ? -a : a); }>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t));
}

template <typename T, bool Max>
uint32_t pair_extreme(uint32_t a, uint32_t b) {
  auto pick = [](T x, T y) { return Max ? (x > y ? x : y) : (x < y ? x : y); };
  return uint32_t(uint16_t(pick(T(a), T(b)))) | uint32_t(uint16_t(pick(T(a >> 16), T(b >> 16)))) << 16;
}

bool rule_min_max(Lower& lw) {
  bool max = lw.opcode() == "max";
  bool relu = lw.take("relu");
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 3)) return false;
  Handler h = nullptr;
  if (t == Type::kU16x2) {
    h = max ? binary<uint32_t, uint32_t, pair_extreme<uint16_t, true>>
            : binary<uint32_t, uint32_t, pair_extreme<uint16_t, false>>;
  } else if (t == Type::kS16x2) {
    h = max ? binary<uint32_t, uint32_t, pair_extreme<int16_t, true>>
            : binary<uint32_t, uint32_t, pair_extreme<int16_t, false>>;
  } else {
    h = for_int(t, [&](auto v) -> Handler {
      using T = decltype(v);
      return max ? binary<T, T, [](T a, T b) { return std::max(a, b); }>
                 : binary<T, T, [](T a, T b) { return std::min(a, b); }>;
    });
  }
  Location d = lw.dst(0, t);
  if (!emit_or_refuse(lw, h, d, lw.src(1, t), lw.src(2, t))) return false;
  if (!relu) return true;
  if (t == Type::kS16x2)
    lw.emit(binary<uint32_t, uint32_t, pair_extreme<int16_t, true>>, d, d, lw.constant(0, 4));
  else if (t == Type::kS32)
    lw.emit(unary<int32_t, int32_t, [](int32_t a) { return a < 0 ? 0 : a; }>, d, d);
  else
    return false;
  return true;
}

template <typename A, typename B>
int32_t dot4(uint32_t a, uint32_t b, int32_t c) {
  for (int k = 0; k < 4; ++k) c += int32_t(A(a >> 8 * k)) * int32_t(B(b >> 8 * k));
  return c;
}
template <typename A, typename B, bool High>
int32_t dot2(uint32_t a, uint32_t b, int32_t c) {
  for (int k = 0; k < 2; ++k) c += int32_t(A(a >> 16 * k)) * int32_t(B(b >> 8 * (k + (High ? 2 : 0))));
  return c;
}

bool rule_dot(Lower& lw) {
  bool two = lw.opcode() == "dp2a";
  int half = two ? lw.take_any({"lo", "hi"}) : 0;
  Type a = lw.take_type(), b = lw.take_type();
  bool sa = a == Type::kS32, sb = b == Type::kS32;
  if (half < 0 || type_bytes(a) != 4 || type_bytes(b) != 4 || !lw.expect_operands(4, 4)) return false;
  auto pick = [&]<typename A16, typename A8, typename B8>() -> Handler {
    using U = uint32_t;
    if (!two) return ternary<int32_t, U, int32_t, dot4<A8, B8>>;
    return half ? ternary<int32_t, U, int32_t, dot2<A16, B8, true>>
                : ternary<int32_t, U, int32_t, dot2<A16, B8, false>>;
  };
  Handler h = sa ? (sb ? pick.operator()<int16_t, int8_t, int8_t>() : pick.operator()<int16_t, int8_t, uint8_t>())
                 : (sb ? pick.operator()<uint16_t, uint8_t, int8_t>() : pick.operator()<uint16_t, uint8_t, uint8_t>());
  return emit_or_refuse(lw, h, lw.dst(0, Type::kB32), lw.src(1, Type::kB32), lw.src(2, Type::kB32),
                        lw.src(3, Type::kB32));
}

// Opcodes that exist for integers and floats: the type decides.
bool rule_arithmetic(Lower& lw) {
  switch (lw.peek_type()) {
    case Type::kF32:
    case Type::kF64:
      return float_arithmetic(lw);
    case Type::kF16:
    case Type::kF16x2:
    case Type::kBf16:
    case Type::kBf16x2:
      return half_arithmetic(lw);
    default:
      return int_arithmetic(lw);
  }
}

constexpr NamedRule kIntegers[] = {
    {"add", rule_add<false>}, {"sub", rule_add<true>}, {"mul", rule_mul},     {"mad", rule_mad},     {"div", rule_div},
    {"abs", rule_abs_neg},    {"neg", rule_abs_neg},   {"min", rule_min_max}, {"max", rule_min_max},
};

constexpr NamedRule kRules[] = {
    {"add", rule_arithmetic},
    {"sub", rule_arithmetic},
    {"mul", rule_arithmetic},
    {"mad", rule_arithmetic},
    {"div", rule_arithmetic},
    {"abs", rule_arithmetic},
    {"neg", rule_arithmetic},
    {"min", rule_arithmetic},
    {"max", rule_arithmetic},
    {"fma", rule_arithmetic},
    {"rem", rule_div},
    {"sad", rule_sad},
    {"mul24", rule_mul24},
    {"mad24", rule_mul24},
    {"dp4a", rule_dot},
    {"dp2a", rule_dot},
    {"addc", [](Lower& lw) { return rule_carry(lw, false, true); }},
    {"subc", [](Lower& lw) { return rule_carry(lw, true, true); }},
    {"madc", [](Lower& lw) { return rule_mad_carry(lw, true); }},
};

}  // namespace

bool int_arithmetic(Lower& lw) {
  for (const NamedRule& rule : kIntegers)
    if (rule.opcode == lw.opcode()) return rule.rule(lw);
  return false;
}

std::span<const NamedRule> int_rules() { return kRules; }

}  // namespace bf::ptx
