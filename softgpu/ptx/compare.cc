// setp, set and testp.
#include "softgpu/ptx/handlers.h"
#include "softgpu/ptx/numeric.h"

namespace bf::ptx {
namespace {

enum Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };

template <int C, typename V>
inline bool compare(V a, V b) {
  bool unordered = false;
  if constexpr (std::is_floating_point_v<V>) unordered = a != a || b != b;
  switch (C) {
    case kEq:
      return a == b;
    case kNe:
      return !unordered && a != b;
    case kLt:
      return a < b;
    case kLe:
      return a <= b;
    case kGt:
      return a > b;
    case kGe:
      return a >= b;
    case kEqu:
      return unordered || a == b;
    case kNeu:
      return unordered || a != b;
    case kLtu:
      return unordered || a < b;
    case kLeu:
      return unordered || a <= b;
    case kGtu:
      return unordered || a > b;
    case kGeu:
      return unordered || a >= b;
    case kNum:
      return !unordered;
    default:
      return unordered;
  }
}

// How a register lane becomes a comparable value.
template <typename T>
struct Plain {
  using Lane = T;
  static T value(T v) { return v; }
};
struct FlushedFloat {
  using Lane = float;
  static float value(float v) { return flush(v); }
};
struct Half {
  using Lane = uint16_t;
  static float value(uint16_t v) { return half_to_float(v); }
};
struct Brain {
  using Lane = uint16_t;
  static float value(uint16_t v) { return bf16_to_float(v); }
};

template <int C, typename K>
uint32_t compare_lanes(Warp& w, const Inst& in) {
  const auto *a = at<typename K::Lane>(w, in.a), *b = at<typename K::Lane>(w, in.b);
  uint32_t result = 0;
  for (int i = 0; i < kLanes; ++i) result |= uint32_t(compare<C>(K::value(a[i]), K::value(b[i]))) << i;
  return result;
}

enum Combine : uint32_t { kPlain, kAnd, kOr, kXor };

uint32_t combine(uint32_t how, uint32_t value, uint32_t with) {
  return how == kAnd ? value & with : how == kOr ? value | with : how == kXor ? value ^ with : value;
}

// flags: Combine; c: the predicate to combine with; e: where the complement goes.
void store_result(Warp& w, const Inst& in, uint32_t result) {
  uint32_t with = in.c ? *at<uint32_t>(w, in.c) : 0;
  set_predicate(w, in.d, combine(in.flags, result, with));
  if (in.e) set_predicate(w, in.e, combine(in.flags, ~result, with));
}

template <int C, typename K>
void set_p(Warp& w, const Inst& in) {
  store_result(w, in, compare_lanes<C, K>(w, in));
}

template <typename K, int... Cs>
Handler pick_comparison(int c, std::integer_sequence<int, Cs...>) {
  static constexpr Handler kTable[] = {set_p<Cs, K>...};
  return kTable[c];
}
template <typename K>
Handler for_float_kind(int c) {
  return pick_comparison<K>(c, std::make_integer_sequence<int, 14>{});
}
template <typename K>
Handler for_int_kind(int c) {
  return c < 6 ? pick_comparison<K>(c, std::make_integer_sequence<int, 6>{}) : nullptr;
}

Handler comparison(Type t, int c, bool ftz) {
  switch (t) {
    case Type::kB16:
    case Type::kU16:
      return for_int_kind<Plain<uint16_t>>(c);
    case Type::kB32:
    case Type::kU32:
      return for_int_kind<Plain<uint32_t>>(c);
    case Type::kB64:
    case Type::kU64:
      return for_int_kind<Plain<uint64_t>>(c);
    case Type::kS16:
      return for_int_kind<Plain<int16_t>>(c);
    case Type::kS32:
      return for_int_kind<Plain<int32_t>>(c);
    case Type::kS64:
      return for_int_kind<Plain<int64_t>>(c);
    case Type::kF32:
      return ftz ? for_float_kind<FlushedFloat>(c) : for_float_kind<Plain<float>>(c);
    case Type::kF64:
      return for_float_kind<Plain<double>>(c);
    case Type::kF16:
    case Type::kF16x2:
      return for_float_kind<Half>(c);
    case Type::kBf16:
    case Type::kBf16x2:
      return for_float_kind<Brain>(c);
    default:
      return nullptr;
  }
}

struct Form {
  int comparison = -1;
  uint32_t combine = kPlain;
  bool ftz = false;
};

bool take_form(Lower& lw, Form& form) {
  form.comparison =
      lw.take_any({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"});
  if (form.comparison < 0) {  // lo ls hi hs: unsigned comparisons by another name
    int unsigned_form = lw.take_any({"lo", "ls", "hi", "hs"});
    if (unsigned_form < 0) return false;
    form.comparison = kLt + unsigned_form;
  }
  form.combine = uint32_t(lw.take_any({"and", "or", "xor"}) + 1);
  form.ftz = lw.take("ftz");
  return true;
}

template <int Part>
void half_of(Warp& w, const Inst& in) {
  const uint32_t* a = at<uint32_t>(w, in.a);
  each<uint16_t>(w, in.d, [=](int i) { return uint16_t(a[i] >> (16 * Part)); });
}

bool rule_setp(Lower& lw) {
  Form form;
  if (!take_form(lw, form)) return false;
  Type t = lw.take_type();
  size_t operands = form.combine ? 4 : 3;
  Handler h = comparison(t, form.comparison, form.ftz);
  if (!h || !lw.expect_operands(operands, operands)) return false;
  Location c = form.combine ? lw.src_predicate(lw.operand(3)) : 0;
  auto second = lw.operand(0).second;
  if (t == Type::kF16x2 || t == Type::kBf16x2) {  // p: low halves, q: high halves
    Location a = lw.src(1, t), b = lw.src(2, t);
    Location low_a = lw.temporary(2), low_b = lw.temporary(2), high_a = lw.temporary(2), high_b = lw.temporary(2);
    lw.emit(half_of<0>, low_a, a), lw.emit(half_of<0>, low_b, b), lw.emit(half_of<1>, high_a, a),
        lw.emit(half_of<1>, high_b, b);
    lw.emit(h, lw.dst_predicate(0), low_a, low_b, c).flags = form.combine;
    if (!second.empty()) lw.emit(h, lw.dst_predicate(second), high_a, high_b, c).flags = form.combine;
    return true;
  }
  Location e = second.empty() ? 0 : lw.dst_predicate(second);
  Inst& inst = lw.emit(h, lw.dst_predicate(0), lw.src(1, t), lw.src(2, t), c);
  inst.flags = form.combine;
  inst.e = e;
  return true;
}

// set: all ones or 1.0 of the destination type. imm: the value for true.
template <typename T>
void predicate_value(Warp& w, const Inst& in) {
  uint32_t p = *at<uint32_t>(w, in.a);
  T value = T(in.imm);
  each<T>(w, in.d, [=](int i) { return p >> i & 1 ? value : T(0); });
}

void join_halves(Warp& w, const Inst& in) {
  const uint16_t *a = at<uint16_t>(w, in.a), *b = at<uint16_t>(w, in.b);
  each<uint32_t>(w, in.d, [=](int i) { return uint32_t(a[i]) | uint32_t(b[i]) << 16; });
}

uint64_t true_value(Type t) {
  switch (t) {
    case Type::kF32:
      return 0x3f800000;
    case Type::kF16:
    case Type::kF16x2:
      return 0x3c00;
    case Type::kBf16:
    case Type::kBf16x2:
      return 0x3f80;
    default:
      return ~uint64_t{0};
  }
}

bool rule_set(Lower& lw) {
  Form form;
  if (!take_form(lw, form)) return false;
  Type d = lw.take_type(), t = lw.take_type();
  size_t operands = form.combine ? 4 : 3;
  Handler h = comparison(t, form.comparison, form.ftz);
  if (!h || !lw.expect_operands(operands, operands)) return false;
  Location c = form.combine ? lw.src_predicate(lw.operand(3)) : 0;
  Location p = lw.temporary(0);
  if (t == Type::kF16x2 || t == Type::kBf16x2) {
    if (type_bytes(d) != 4) return false;
    Location a = lw.src(1, t), b = lw.src(2, t), half[2] = {lw.temporary(2), lw.temporary(2)};
    Location part_a = lw.temporary(2), part_b = lw.temporary(2);
    for (int k = 0; k < 2; ++k) {
      lw.emit(k ? half_of<1> : half_of<0>, part_a, a), lw.emit(k ? half_of<1> : half_of<0>, part_b, b);
      lw.emit(h, p, part_a, part_b, c).flags = form.combine;
      lw.emit(predicate_value<uint16_t>, half[k], p).imm = true_value(d);
    }
    lw.emit(join_halves, lw.dst(0, d), half[0], half[1]);
    return true;
  }
  lw.emit(h, p, lw.src(1, t), lw.src(2, t), c).flags = form.combine;
  if (type_bytes(d) != 2 && type_bytes(d) != 4) return false;
  lw.emit(type_bytes(d) == 2 ? predicate_value<uint16_t> : predicate_value<uint32_t>, lw.dst(0, d), p).imm =
      true_value(d);
  return true;
}

template <typename T, int Test>
void test_p(Warp& w, const Inst& in) {
  const T* a = at<T>(w, in.a);
  uint32_t result = 0;
  for (int i = 0; i < kLanes; ++i) {
    int c = std::fpclassify(a[i]);
    bool bit = Test == 0   ? c != FP_NAN && c != FP_INFINITE
               : Test == 1 ? c == FP_INFINITE
               : Test == 2 ? c != FP_NAN
               : Test == 3 ? c == FP_NAN
               : Test == 4 ? c == FP_NORMAL
                           : c == FP_SUBNORMAL;
    result |= uint32_t(bit) << i;
  }
  set_predicate(w, in.d, result);
}

template <typename T>
Handler tests(int which) {
  static constexpr Handler kTable[] = {test_p<T, 0>, test_p<T, 1>, test_p<T, 2>,
                                       test_p<T, 3>, test_p<T, 4>, test_p<T, 5>};
  return kTable[which];
}

bool rule_testp(Lower& lw) {
  int test = lw.take_any({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  Type t = lw.take_type();
  if (test < 0 || !lw.expect_operands(2, 2) || (t != Type::kF32 && t != Type::kF64)) return false;
  lw.emit(t == Type::kF32 ? tests<float>(test) : tests<double>(test), lw.dst_predicate(0), lw.src(1, t));
  return true;
}

constexpr NamedRule kRules[] = {{"setp", rule_setp}, {"set", rule_set}, {"testp", rule_testp}};

}  // namespace

std::span<const NamedRule> compare_rules() { return kRules; }

}  // namespace bf::ptx
