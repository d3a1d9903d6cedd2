// Bits: logic, shifts, fields, permutations, and predicates as bits of a mask.
#include "softgpu/ptx/handlers.h"

namespace bf::ptx {
namespace {

template <auto F>
void predicate_binary(Warp& w, const Inst& in) {
  set_predicate(w, in.d, F(*at<uint32_t>(w, in.a), *at<uint32_t>(w, in.b)));
}

template <auto F>
bool rule_logic(Lower& lw) {
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 3)) return false;
  Handler h =
      t == Type::kPred ? predicate_binary<F> : for_bits(type_kind(t) == 'b' ? type_bytes(t) : 0, [](auto v) -> Handler {
        using T = decltype(v);
        return binary<T, T, F>;
      });
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, t));
}

void predicate_not(Warp& w, const Inst& in) { set_predicate(w, in.d, ~*at<uint32_t>(w, in.a)); }

bool rule_not(Lower& lw) {
  bool c = lw.opcode() == "cnot";
  Type t = lw.take_type();
  if (!lw.expect_operands(2, 2)) return false;
  Handler h = t == Type::kPred && !c ? predicate_not : for_bits(type_bytes(t), [&](auto v) -> Handler {
    using T = decltype(v);
    return c ? unary<T, T, [](T a) { return T(a == 0); }> : unary<T, T, [](T a) { return T(~a); }>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t));
}

template <typename T>
T shift_left(T a, uint32_t n) {
  return n >= sizeof(T) * 8 ? T(0) : T(a << n);
}
template <typename T>
T shift_right(T a, uint32_t n) {
  uint32_t most = sizeof(T) * 8 - 1;
  if (std::is_signed_v<T>) return T(a >> (n > most ? most : n));
  return n > most ? T(0) : T(a >> n);
}

bool rule_shift(Lower& lw) {
  bool left = lw.opcode() == "shl";
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 3)) return false;
  Handler h = for_int(t, [&](auto v) -> Handler {
    using T = decltype(v);
    using U = std::make_unsigned_t<T>;
    return left ? binary2<U, U, uint32_t, shift_left<U>> : binary2<T, T, uint32_t, shift_right<T>>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, Type::kU32));
}

// shf: the 64-bit value b:a shifted, by at most 32 (.clamp) or modulo 32 (.wrap).
bool rule_funnel(Lower& lw) {
  int direction = lw.take_any({"l", "r"});
  int mode = lw.take_any({"clamp", "wrap"});
  if (direction < 0 || mode < 0 || !lw.take("b32") || !lw.expect_operands(4, 4)) return false;
  using U = uint32_t;
  static constexpr auto kLeft = [](U a, U b, U n) { return n == 0 ? b : n >= 32 ? a : (b << n | a >> (32 - n)); };
  static constexpr auto kRight = [](U a, U b, U n) { return n == 0 ? a : n >= 32 ? b : (a >> n | b << (32 - n)); };
  Handler h;
  if (direction == 0)
    h = mode ? ternary<U, U, U, [](U a, U b, U n) { return kLeft(a, b, n & 31); }> : ternary<U, U, U, kLeft>;
  else
    h = mode ? ternary<U, U, U, [](U a, U b, U n) { return kRight(a, b, n & 31); }> : ternary<U, U, U, kRight>;
  Type t = Type::kB32;
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, t), lw.src(3, t));
}

void logic3(Warp& w, const Inst& in) {
  const uint32_t *a = at<uint32_t>(w, in.a), *b = at<uint32_t>(w, in.b), *c = at<uint32_t>(w, in.c);
  const uint64_t table = in.imm;
  uint32_t term[8];
  for (int k = 0; k < 8; ++k) term[k] = table >> k & 1 ? ~0u : 0u;
  each<uint32_t>(w, in.d, [=](int i) {
    uint32_t x = a[i], y = b[i], z = c[i];
    return (term[0] & ~x & ~y & ~z) | (term[1] & ~x & ~y & z) | (term[2] & ~x & y & ~z) | (term[3] & ~x & y & z) |
           (term[4] & x & ~y & ~z) | (term[5] & x & ~y & z) | (term[6] & x & y & ~z) | (term[7] & x & y & z);
  });
}

bool rule_lop3(Lower& lw) {
  int combine = lw.take_any({"or", "and"});
  if (!lw.take("b32")) return false;
  bool predicate = combine >= 0;
  if (!lw.expect_operands(predicate ? 6 : 5, predicate ? 6 : 5) || lw.operand(4).kind != ast::OperandKind::kInt ||
      lw.operand(4).bits > 255)
    return false;
  Type t = Type::kB32;
  Location d = lw.dst(0, t);
  lw.emit(logic3, d, lw.src(1, t), lw.src(2, t), lw.src(3, t)).imm = lw.operand(4).bits;
  if (!predicate) return true;
  // p = (d != 0) BoolOp q
  Location q = lw.src_predicate(lw.operand(5));
  Inst& inst = lw.emit(
      [](Warp& w, const Inst& in) {
        const uint32_t* v = at<uint32_t>(w, in.a);
        uint32_t nonzero = 0;
        for (int i = 0; i < kLanes; ++i) nonzero |= uint32_t(v[i] != 0) << i;
        uint32_t q = *at<uint32_t>(w, in.b);
        set_predicate(w, in.d, in.flags ? nonzero & q : nonzero | q);
      },
      lw.dst_predicate(lw.operand(0).second), d, q);
  inst.flags = uint32_t(combine);
  return true;
}

template <typename T>
T extract(T a, uint32_t position, uint32_t length) {
  constexpr uint32_t bits = sizeof(T) * 8;
  position &= 0xff, length &= 0xff;
  using U = std::make_unsigned_t<T>;
  if (length == 0) return 0;
  uint32_t top = position + length - 1 < bits - 1 ? position + length - 1 : bits - 1;
  bool sign = std::is_signed_v<T> && (U(a) >> top & 1);
  U field = position >= bits ? U(0) : U(U(a) >> position);
  if (length < bits) {
    U mask = (U(1) << length) - 1;
    // Bits above the top of `a` are sign bits too.
    uint32_t have = position >= bits ? 0 : bits - position;
    U known = length < have ? mask : have >= bits ? ~U(0) : (U(1) << have) - 1;
    field = U(field & known) | (sign ? U(~known) : U(0));
  } else if (sign && position > 0) {
    uint32_t have = position >= bits ? 0 : bits - position;
    field |= have == 0 ? ~U(0) : U(~((U(1) << have) - 1));
  }
  return T(field);
}

template <typename T>
void extract_field(Warp& w, const Inst& in) {
  const T* a = at<T>(w, in.a);
  const uint32_t *b = at<uint32_t>(w, in.b), *c = at<uint32_t>(w, in.c);
  each<T>(w, in.d, [=](int i) { return extract<T>(a[i], b[i], c[i]); });
}

bool rule_bfe(Lower& lw) {
  Type t = lw.take_type();
  if (!lw.expect_operands(4, 4)) return false;
  Handler h = for_int(t, [](auto v) -> Handler {
    using T = decltype(v);
    if constexpr (sizeof(T) == 2)
      return nullptr;
    else
      return extract_field<T>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, Type::kU32), lw.src(3, Type::kU32));
}

template <typename T>
void insert_field(Warp& w, const Inst& in) {
  const T *a = at<T>(w, in.a), *b = at<T>(w, in.b);
  const uint32_t *c = at<uint32_t>(w, in.c), *e = at<uint32_t>(w, in.e);
  constexpr uint32_t bits = sizeof(T) * 8;
  each<T>(w, in.d, [=](int i) {
    uint32_t position = c[i] & 0xff, length = e[i] & 0xff;
    if (length == 0 || position >= bits) return b[i];
    T mask = length >= bits ? T(~T(0)) : T((T(1) << length) - 1);
    return T((b[i] & ~T(mask << position)) | T((a[i] & mask) << position));
  });
}

bool rule_bfi(Lower& lw) {
  Type t = lw.take_type();
  if (!lw.expect_operands(5, 5) || type_kind(t) != 'b') return false;
  Handler h = t == Type::kB32 ? insert_field<uint32_t> : t == Type::kB64 ? insert_field<uint64_t> : nullptr;
  if (!h) return false;
  Location e = lw.src(4, Type::kU32);
  lw.emit(h, lw.dst(0, t), lw.src(1, t), lw.src(2, t), lw.src(3, Type::kU32)).e = e;
  return true;
}

template <typename T, bool ShiftAmount>
uint32_t find_top(T a) {
  using U = std::make_unsigned_t<T>;
  U v = U(std::is_signed_v<T> && a < 0 ? ~a : a);
  if (v == 0) return ~0u;
  uint32_t top = sizeof(T) == 8 ? 63 - uint32_t(__builtin_clzll(v)) : 31 - uint32_t(__builtin_clz(uint32_t(v)));
  return ShiftAmount ? sizeof(T) * 8 - 1 - top : top;
}

bool rule_bfind(Lower& lw) {
  bool shift = lw.take("shiftamt");
  Type t = lw.take_type();
  if (!lw.expect_operands(2, 2)) return false;
  Handler h = for_int(t, [&](auto v) -> Handler {
    using T = decltype(v);
    if constexpr (sizeof(T) == 2)
      return nullptr;
    else
      return shift ? unary<uint32_t, T, find_top<T, true>> : unary<uint32_t, T, find_top<T, false>>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, Type::kU32), lw.src(1, t));
}

template <typename T>
T reverse(T a) {
  T r = 0;
  for (size_t k = 0; k < sizeof(T) * 8; ++k) r = T(r << 1 | (a >> k & 1));
  return r;
}

bool rule_count(Lower& lw) {
  auto op = lw.opcode();
  Type t = lw.take_type();
  if (!lw.expect_operands(2, 2) || type_kind(t) != 'b') return false;
  using U = uint32_t;
  using L = uint64_t;
  Handler h = nullptr;
  if (op == "popc")
    h = t == Type::kB32   ? unary<U, U, [](U a) { return U(__builtin_popcount(a)); }>
        : t == Type::kB64 ? unary<U, L, [](L a) { return U(__builtin_popcountll(a)); }>
                          : nullptr;
  else if (op == "clz")
    h = t == Type::kB32   ? unary<U, U, [](U a) { return a ? U(__builtin_clz(a)) : 32u; }>
        : t == Type::kB64 ? unary<U, L, [](L a) { return a ? U(__builtin_clzll(a)) : 64u; }>
                          : nullptr;
  else
    h = t == Type::kB32 ? unary<U, U, reverse<U>> : t == Type::kB64 ? unary<L, L, reverse<L>> : nullptr;
  return emit_or_refuse(lw, h, lw.dst(0, op == "brev" ? t : Type::kU32), lw.src(1, t));
}

// fns: the n-th set bit from `base` upwards (n > 0) or downwards (n < 0).
uint32_t find_nth(uint32_t mask, uint32_t base, int32_t n) {
  if (n == 0) return base < 32 && (mask >> base & 1) ? base : ~0u;
  int step = n > 0 ? 1 : -1;
  uint32_t left = uint32_t(n > 0 ? n : -n);
  for (int at = int(base & 31); at >= 0 && at < 32; at += step)
    if ((mask >> at & 1) && --left == 0) return uint32_t(at);
  return ~0u;
}

bool rule_fns(Lower& lw) {
  Type t = Type::kB32;
  return lw.take("b32") && lw.expect_operands(4, 4) &&
         emit_or_refuse(lw, ternary<uint32_t, uint32_t, int32_t, find_nth>, lw.dst(0, t), lw.src(1, t), lw.src(2, t),
                        lw.src(3, t));
}

// ------------------------------------------------------------------------------------------------------------ prmt

uint32_t pick_bytes(uint32_t a, uint32_t b, const uint32_t (&selector)[4]) {
  uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int k = 0; k < 4; ++k) {
    uint32_t byte = uint32_t(bytes >> 8 * (selector[k] & 7)) & 0xff;
    if (selector[k] & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * k;
  }
  return result;
}

template <int Mode>
uint32_t permute(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t n = c & 3;
  if (Mode == 0) return pick_bytes(a, b, {c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15});
  if (Mode == 1) return pick_bytes(a, b, {n, n + 1, n + 2, n + 3});                    // f4e
  if (Mode == 2) return pick_bytes(a, b, {n, (n + 7) & 7, (n + 6) & 7, (n + 5) & 7});  // b4e
  if (Mode == 3) return pick_bytes(a, b, {n, n, n, n});                                // rc8
  if (Mode == 4) return pick_bytes(a, b, {n, n < 1 ? 1 : n, n < 2 ? 2 : n, 3});        // ecl
  if (Mode == 5) return pick_bytes(a, b, {0, n > 1 ? 1 : n, n > 2 ? 2 : n, n});        // ecr
  uint32_t h = (n & 1) * 2;
  return pick_bytes(a, b, {h, h + 1, h, h + 1});  // rc16
}

bool rule_prmt(Lower& lw) {
  if (!lw.take("b32") || !lw.expect_operands(4, 4)) return false;
  using U = uint32_t;
  static constexpr Handler kModes[] = {ternary<U, U, U, permute<0>>, ternary<U, U, U, permute<1>>,
                                       ternary<U, U, U, permute<2>>, ternary<U, U, U, permute<3>>,
                                       ternary<U, U, U, permute<4>>, ternary<U, U, U, permute<5>>,
                                       ternary<U, U, U, permute<6>>};
  int mode = lw.take_any({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"}) + 1;
  Type t = Type::kB32;
  return emit_or_refuse(lw, kModes[mode], lw.dst(0, t), lw.src(1, t), lw.src(2, t), lw.src(3, t));
}

// bmsk: `b` ones from bit `a`; .wrap takes both modulo 32.
uint32_t bit_mask(uint32_t a, uint32_t b) {
  if (a >= 32 || b == 0) return 0;
  return (b >= 32 ? ~0u : (1u << b) - 1) << a;
}

bool rule_bmsk(Lower& lw) {
  int mode = lw.take_any({"clamp", "wrap"});
  if (mode < 0 || !lw.take("b32") || !lw.expect_operands(3, 3)) return false;
  using U = uint32_t;
  Handler h = mode ? binary<U, U, [](U a, U b) { return bit_mask(a & 31, b & 31); }> : binary<U, U, bit_mask>;
  return emit_or_refuse(lw, h, lw.dst(0, Type::kB32), lw.src(1, Type::kU32), lw.src(2, Type::kU32));
}

template <typename T>
T extend(T a, uint32_t n) {
  using U = uint32_t;
  if (n >= 32) return a;
  if (n == 0) return 0;
  U field = U(a) & ((1u << n) - 1);
  return std::is_signed_v<T> && (field >> (n - 1) & 1) ? T(field | ~((1u << n) - 1)) : T(field);
}

bool rule_szext(Lower& lw) {
  int mode = lw.take_any({"clamp", "wrap"});
  Type t = lw.take_type();
  if (mode < 0 || type_bytes(t) != 4 || !lw.expect_operands(3, 3)) return false;
  auto pick = [&](auto v) -> Handler {
    using T = decltype(v);
    return mode ? binary2<T, T, uint32_t, [](T a, uint32_t n) { return extend<T>(a, n & 31); }>
                : binary2<T, T, uint32_t, extend<T>>;
  };
  return emit_or_refuse(lw, t == Type::kS32 ? pick(int32_t{}) : pick(uint32_t{}), lw.dst(0, t), lw.src(1, t),
                        lw.src(2, Type::kU32));
}

constexpr NamedRule kRules[] = {
    {"and", rule_logic<[](auto a, auto b) { return a & b; }>},
    {"or", rule_logic<[](auto a, auto b) { return a | b; }>},
    {"xor", rule_logic<[](auto a, auto b) { return a ^ b; }>},
    {"not", rule_not},
    {"cnot", rule_not},
    {"shl", rule_shift},
    {"shr", rule_shift},
    {"shf", rule_funnel},
    {"lop3", rule_lop3},
    {"bfe", rule_bfe},
    {"bfi", rule_bfi},
    {"bfind", rule_bfind},
    {"popc", rule_count},
    {"clz", rule_count},
    {"brev", rule_count},
    {"fns", rule_fns},
    {"prmt", rule_prmt},
    {"bmsk", rule_bmsk},
    {"szext", rule_szext},
};

}  // namespace

std::span<const NamedRule> logic_rules() { return kRules; }

}  // namespace bf::ptx
