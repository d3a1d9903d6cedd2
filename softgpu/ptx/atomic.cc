// atom and red: real atomic operations of the processor on global memory, and on shared memory too (a block runs on one
// thread, but the cost does not matter). Floating-point operations are compare-and-swap loops. Lanes of a warp act in
// lane order.
#include <algorithm>
#include <cmath>

#include "softgpu/ptx/handlers.h"
#include "softgpu/ptx/numeric.h"

namespace bf::ptx {
namespace {

template <typename T>
T* located(Warp& w, const Inst& in, int lane) {
  Window window = Window(in.flags);
  return reinterpret_cast<T*>(
      resolve(w, in, window, at<uint64_t>(w, in.a)[lane] + in.imm, sizeof(T), sizeof(T), true, lane));
}

// d = old; memory = F(old, b, c). d 0: red.
template <typename T, auto F>
void update(Warp& w, const Inst& in) {
  const T *b = at<T>(w, in.b), *c = at<T>(w, in.c);
  T* d = in.d ? at<T>(w, in.d) : nullptr;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    T* p = located<T>(w, in, i);
    if (!p) return;
    T x = b[i], y = in.c ? c[i] : T{};
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, T(F(old, x, y)), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
    if (d) d[i] = old;
  }
  if (d) poll(w, 20);
}

// Compare-and-swap and exchange are how programs wait for each other.
template <typename T>
void swap_if_equal(Warp& w, const Inst& in) {
  const T *b = at<T>(w, in.b), *c = at<T>(w, in.c);
  T* d = in.d ? at<T>(w, in.d) : nullptr;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    T* p = located<T>(w, in, i);
    if (!p) return;
    T expected = b[i];
    if constexpr (sizeof(T) == 16) {
      expected = __sync_val_compare_and_swap(p, b[i], c[i]);
    } else {
      __atomic_compare_exchange_n(p, &expected, c[i], false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    if (d) d[i] = expected;
  }
  poll(w);
}
template <typename T>
void exchange(Warp& w, const Inst& in) {
  const T* b = at<T>(w, in.b);
  T* d = in.d ? at<T>(w, in.d) : nullptr;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    T* p = located<T>(w, in, i);
    if (!p) return;
    T old;
    if constexpr (sizeof(T) == 16) {
      old = *p;
      for (T seen; (seen = __sync_val_compare_and_swap(p, old, b[i])) != old;) old = seen;
    } else {
      old = __atomic_exchange_n(p, b[i], __ATOMIC_SEQ_CST);
    }
    if (d) d[i] = old;
  }
  poll(w);
}
template <typename T>
void fetch_add(Warp& w, const Inst& in) {
  const T* b = at<T>(w, in.b);
  T* d = in.d ? at<T>(w, in.d) : nullptr;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    T* p = located<T>(w, in, i);
    if (!p) return;
    T old = __atomic_fetch_add(p, b[i], __ATOMIC_SEQ_CST);
    if (d) d[i] = old;
  }
  if (d) poll(w, 20);
}

// Floating-point addition on the bits.
template <bool Ftz>
uint32_t add_f32(uint32_t a, uint32_t b, uint32_t) {
  float x = std::bit_cast<float>(a), y = std::bit_cast<float>(b);
  if (Ftz) x = flush(x), y = flush(y);
  float sum = canonical(x + y);
  return std::bit_cast<uint32_t>(Ftz ? flush(sum) : sum);
}
uint64_t add_f64(uint64_t a, uint64_t b, uint64_t) {
  return std::bit_cast<uint64_t>(std::bit_cast<double>(a) + std::bit_cast<double>(b));
}
// 0 add, 1 min, 2 max.
template <bool Bf, int Op>
uint16_t half_op(uint16_t a, uint16_t b, uint16_t) {
  float x = Bf ? bf16_to_float(a) : half_to_float(a), y = Bf ? bf16_to_float(b) : half_to_float(b);
  float r = Op == 0 ? x + y : x != x ? y : y != y ? x : Op == 1 ? std::min(x, y) : std::max(x, y);
  return Bf ? float_to_bf16(r) : float_to_half(r);
}
template <bool Bf, int Op>
uint32_t half_pair(uint32_t a, uint32_t b, uint32_t) {
  return uint32_t(half_op<Bf, Op>(uint16_t(a), uint16_t(b), 0)) |
         uint32_t(half_op<Bf, Op>(uint16_t(a >> 16), uint16_t(b >> 16), 0)) << 16;
}

enum Operation { kAnd, kOr, kXor, kCas, kExch, kAdd, kInc, kDec, kMin, kMax };

template <typename T>
Handler bitwise(int op) {
  switch (op) {
    case kAnd:
      return update<T, [](T a, T b, T) { return T(a & b); }>;
    case kOr:
      return update<T, [](T a, T b, T) { return T(a | b); }>;
    case kXor:
      return update<T, [](T a, T b, T) { return T(a ^ b); }>;
    case kCas:
      return swap_if_equal<T>;
    case kExch:
      return exchange<T>;
    default:
      return nullptr;
  }
}

template <typename T>
Handler arithmetic(int op) {
  switch (op) {
    case kAdd:
      return fetch_add<T>;
    case kMin:
      return update<T, [](T a, T b, T) { return std::min(a, b); }>;
    case kMax:
      return update<T, [](T a, T b, T) { return std::max(a, b); }>;
    default:
      break;
  }
  if constexpr (std::is_same_v<T, uint32_t>) {
    if (op == kInc) return update<T, [](T a, T b, T) { return a >= b ? 0u : a + 1; }>;
    if (op == kDec) return update<T, [](T a, T b, T) { return a == 0 || b < a ? b : a - 1; }>;
  }
  return bitwise<T>(op);
}

template <bool Bf>
Handler half_handler(int op, bool two) {
  if (op == kAdd) return two ? Handler(update<uint32_t, half_pair<Bf, 0>>) : Handler(update<uint16_t, half_op<Bf, 0>>);
  if (op == kMin) return two ? Handler(update<uint32_t, half_pair<Bf, 1>>) : Handler(update<uint16_t, half_op<Bf, 1>>);
  if (op == kMax) return two ? Handler(update<uint32_t, half_pair<Bf, 2>>) : Handler(update<uint16_t, half_op<Bf, 2>>);
  return nullptr;
}

Handler atomic_handler(Type t, int op, bool global) {
  switch (t) {
    case Type::kB16:
      return op == kCas || op == kExch ? bitwise<uint16_t>(op) : nullptr;
    case Type::kB32:
      return bitwise<uint32_t>(op);
    case Type::kB64:
      return bitwise<uint64_t>(op);
    case Type::kB128:
      return op == kCas ? Handler(swap_if_equal<u128>) : op == kExch ? Handler(exchange<u128>) : nullptr;
    case Type::kU32:
      return arithmetic<uint32_t>(op);
    case Type::kS32:
      return arithmetic<int32_t>(op);
    case Type::kU64:
      return arithmetic<uint64_t>(op);
    case Type::kS64:
      return arithmetic<int64_t>(op);
    // As on GPUs: additions in global memory flush subnormals, those in shared memory do not.
    case Type::kF32:
      return op != kAdd ? nullptr
             : global   ? Handler(update<uint32_t, add_f32<true>>)
                        : Handler(update<uint32_t, add_f32<false>>);
    case Type::kF64:
      return op == kAdd ? Handler(update<uint64_t, add_f64>) : nullptr;
    case Type::kF16:
      return half_handler<false>(op, false);
    case Type::kF16x2:
      return half_handler<false>(op, true);
    case Type::kBf16:
      return half_handler<true>(op, false);
    case Type::kBf16x2:
      return half_handler<true>(op, true);
    default:
      return nullptr;
  }
}

bool rule_atomic(Lower& lw) {
  bool red = lw.opcode() == "red";
  if (lw.take("async")) return false;
  lw.take_any({"relaxed", "acquire", "release", "acq_rel"});
  lw.take_any({"cta", "cluster", "gpu", "sys"});
  int space = lw.take_any({"global", "shared", "shared::cta", "shared::cluster"});
  Window window = space < 0 ? Window::kGeneric : space == 0 ? Window::kGlobal : Window::kShared;
  int op = lw.take_any({"and", "or", "xor", "cas", "exch", "add", "inc", "dec", "min", "max"});
  lw.take("noftz");
  for (auto m : lw.in().modifiers)
    if (m == "L2::cache_hint") lw.take(m);
  int vector = lw.take_any({"v2", "v4", "v8"});
  Type t = lw.take_type();
  uint32_t elements = vector < 0 ? 1 : 2u << vector;
  if (op < 0) return false;
  size_t first = red ? 0 : 1;
  if (!lw.expect_operands(first + (op == kCas ? 3 : 2), first + (op == kCas ? 4 : 3))) return false;
  Handler h = atomic_handler(t, op, window == Window::kGlobal);
  Lower::Address address;
  if (!h || !lw.address(lw.operand(first), address) || address.kind != Lower::Address::kRegister) return false;
  const ast::Operand &b = lw.operand(first + 1), &d = lw.operand(0);
  if (elements > 1 && (b.items.size() != elements || (!red && d.items.size() != elements))) return false;
  for (uint32_t k = 0; k < elements; ++k) {
    Location to = red ? 0 : lw.dst(elements > 1 ? d.items[k] : d, t);
    Location c = op == kCas ? lw.src(first + 2, t) : 0;
    Inst& inst = lw.emit(h, to, address.base, lw.src(elements > 1 ? b.items[k] : b, t), c);
    inst.imm = address.offset + k * type_bytes(t);
    inst.flags = uint32_t(window);
  }
  return true;
}

constexpr NamedRule kRules[] = {{"atom", rule_atomic}, {"red", rule_atomic}};

}  // namespace

std::span<const NamedRule> atomic_rules() { return kRules; }

}  // namespace bf::ptx
