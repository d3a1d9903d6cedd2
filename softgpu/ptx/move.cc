// mov, with packing and unpacking of vectors; selp, slct.
#include "softgpu/ptx/handlers.h"
#include "softgpu/ptx/numeric.h"

namespace bf::ptx {
namespace {

template <typename T>
void move(Warp& w, const Inst& in) {
  const T* a = at<T>(w, in.a);
  each<T>(w, in.d, [=](int i) { return a[i]; });
}

void move_predicate(Warp& w, const Inst& in) { set_predicate(w, in.d, *at<uint32_t>(w, in.a)); }

// One element of a packed register: flags is its index. Elements of 8 bits live in 16-bit lanes.
template <typename P, typename E, uint32_t Bits>
void insert(Warp& w, const Inst& in) {
  const E* a = at<E>(w, in.a);
  P* d = at<P>(w, in.d);
  const uint32_t shift = in.flags * Bits;
  const P keep = P(~(P((P(1) << Bits) - 1) << shift));
  const P low = P((P(1) << Bits) - 1);
  each<P>(w, in.d, [=](int i) { return P((d[i] & keep) | ((P(a[i]) & low) << shift)); });
}
template <typename P, typename E, uint32_t Bits>
void extract(Warp& w, const Inst& in) {
  const P* a = at<P>(w, in.a);
  const uint32_t shift = in.flags * Bits;
  each<E>(w, in.d, [=](int i) { return E((a[i] >> shift) & P((P(1) << Bits) - 1)); });
}

struct Packing {
  uint32_t bytes, elements;  // of the packed register
  Handler insert, extract;
  Type element;
};
constexpr Packing kPackings[] = {
    {2, 2, insert<uint16_t, uint16_t, 8>, extract<uint16_t, uint16_t, 8>, Type::kB8},
    {4, 2, insert<uint32_t, uint16_t, 16>, extract<uint32_t, uint16_t, 16>, Type::kB16},
    {4, 4, insert<uint32_t, uint16_t, 8>, extract<uint32_t, uint16_t, 8>, Type::kB8},
    {8, 2, insert<uint64_t, uint32_t, 32>, extract<uint64_t, uint32_t, 32>, Type::kB32},
    {8, 4, insert<uint64_t, uint16_t, 16>, extract<uint64_t, uint16_t, 16>, Type::kB16},
    {8, 8, insert<uint64_t, uint16_t, 8>, extract<uint64_t, uint16_t, 8>, Type::kB8},
    {16, 2, insert<u128, uint64_t, 64>, extract<u128, uint64_t, 64>, Type::kB64},
    {16, 4, insert<u128, uint32_t, 32>, extract<u128, uint32_t, 32>, Type::kB32},
};

Handler mover(uint32_t bytes) {
  return bytes <= 2    ? move<uint16_t>
         : bytes == 4  ? move<uint32_t>
         : bytes == 8  ? move<uint64_t>
         : bytes == 16 ? move<u128>
                       : nullptr;
}

// Source and destination have different widths and so are never the same register.
bool find_packing(Type t, const Packing*& packing, size_t elements) {
  for (const Packing& p : kPackings)
    if (p.bytes == type_bytes(t) && p.elements == elements) packing = &p;
  return packing != nullptr;
}

bool rule_mov(Lower& lw) {
  using ast::OperandKind;
  Type t = lw.take_type();
  if (!lw.expect_operands(2, 2)) return false;
  const ast::Operand &to = lw.operand(0), &from = lw.operand(1);
  if (t == Type::kPred) {
    lw.emit(move_predicate, lw.dst_predicate(0), lw.src_predicate(from));
    return true;
  }
  const Packing* packing = nullptr;
  if (from.kind == OperandKind::kVector) {
    if (!find_packing(t, packing, from.items.size())) return false;
    Location d = lw.dst(0, t);
    for (uint32_t k = 0; k < packing->elements; ++k)
      lw.emit(packing->insert, d, lw.src(from.items[k], packing->element)).flags = k;
    return true;
  }
  if (to.kind == OperandKind::kVector) {
    if (!find_packing(t, packing, to.items.size())) return false;
    Location a = lw.src(1, t);
    for (uint32_t k = 0; k < packing->elements; ++k)
      if (to.items[k].name != "_") lw.emit(packing->extract, lw.dst(to.items[k], packing->element), a).flags = k;
    return true;
  }
  return emit_or_refuse(lw, mover(type_bytes(t)), lw.dst(0, t), lw.src(1, t));
}

template <typename T>
void select(Warp& w, const Inst& in) {
  const T *a = at<T>(w, in.a), *b = at<T>(w, in.b);
  const uint32_t p = *at<uint32_t>(w, in.c);
  each<T>(w, in.d, [=](int i) { return p >> i & 1 ? a[i] : b[i]; });
}

bool rule_selp(Lower& lw) {
  Type t = lw.take_type();
  if (!lw.expect_operands(4, 4)) return false;
  Handler h = for_bits(type_bytes(t), [](auto v) -> Handler { return select<decltype(v)>; });
  if (!h) return false;
  Location c = lw.src_predicate(lw.operand(3));
  lw.emit(h, lw.dst(0, t), lw.src(1, t), lw.src(2, t), c);
  return true;
}

template <typename T, typename C>
T choose(T a, T b, C c) {
  return c >= 0 ? a : b;
}

bool rule_slct(Lower& lw) {
  bool ftz = lw.take("ftz");
  Type t = lw.take_type(), c = lw.take_type();
  if (!lw.expect_operands(4, 4) || (c != Type::kS32 && c != Type::kF32)) return false;
  Handler h = for_bits(type_bytes(t), [&](auto v) -> Handler {
    using T = decltype(v);
    if (c == Type::kS32) return ternary<T, T, int32_t, choose<T, int32_t>>;
    return ftz ? ternary<T, T, float, [](T x, T y, float z) { return choose<T, float>(x, y, flush(z)); }>
               : ternary<T, T, float, choose<T, float>>;
  });
  return emit_or_refuse(lw, h, lw.dst(0, t), lw.src(1, t), lw.src(2, t), lw.src(3, c));
}

constexpr NamedRule kRules[] = {{"mov", rule_mov}, {"selp", rule_selp}, {"slct", rule_slct}};

}  // namespace

std::span<const NamedRule> move_rules() { return kRules; }

}  // namespace bf::ptx
