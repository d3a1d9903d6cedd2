// Patterns that most handlers follow, and how rules choose one by type.
#pragma once

#include <type_traits>

#include "softgpu/ptx/lower.h"
#include "softgpu/ptx/machine.h"

namespace bf::ptx {

using u128 = unsigned __int128;

template <typename D, typename A, auto F>
void unary(Warp& w, const Inst& in) {
  const A* a = at<A>(w, in.a);
  each<D>(w, in.d, [=](int i) { return D(F(a[i])); });
}

template <typename D, typename A, auto F>
void binary(Warp& w, const Inst& in) {
  const A *a = at<A>(w, in.a), *b = at<A>(w, in.b);
  each<D>(w, in.d, [=](int i) { return D(F(a[i], b[i])); });
}

template <typename D, typename A, typename B, auto F>
void binary2(Warp& w, const Inst& in) {
  const A* a = at<A>(w, in.a);
  const B* b = at<B>(w, in.b);
  each<D>(w, in.d, [=](int i) { return D(F(a[i], b[i])); });
}

template <typename D, typename A, typename C, auto F>
void ternary(Warp& w, const Inst& in) {
  const A *a = at<A>(w, in.a), *b = at<A>(w, in.b);
  const C* c = at<C>(w, in.c);
  each<D>(w, in.d, [=](int i) { return D(F(a[i], b[i], c[i])); });
}

// f(T{}) for the C++ type of an integer or bit type; nullptr for others.
template <typename F>
Handler for_int(Type type, F f) {
  switch (type) {
    case Type::kU16:
    case Type::kB16:
      return f(uint16_t{});
    case Type::kU32:
    case Type::kB32:
      return f(uint32_t{});
    case Type::kU64:
    case Type::kB64:
      return f(uint64_t{});
    case Type::kS16:
      return f(int16_t{});
    case Type::kS32:
      return f(int32_t{});
    case Type::kS64:
      return f(int64_t{});
    default:
      return nullptr;
  }
}

// The same by width: 2, 4 or 8 bytes, unsigned.
template <typename F>
Handler for_bits(uint32_t bytes, F f) {
  switch (bytes) {
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    case 8:
      return f(uint64_t{});
    default:
      return nullptr;
  }
}

// True: all members are here, `w.exchange` is theirs. False: this group waits, nothing is left to do.
bool join_collective(Warp& w, const Inst& in);

// Op: read(w, in) and write(w, in), over the lanes of w.mask. Inst::e is the member mask.
template <typename Op>
void collective(Warp& w, const Inst& in) {
  if (w.phase == Phase::kRead) return Op::read(w, in);
  if (w.phase == Phase::kWrite) return Op::write(w, in);
  if (!join_collective(w, in)) return;
  Op::read(w, in);
  if (w.event != Event::kFault) Op::write(w, in);
}
template <typename Op>
constexpr Handler collective_handler() {
  return collective<Op>;
}

inline bool emit_or_refuse(Lower& lw, Handler handler, Location d, Location a, Location b = 0, Location c = 0) {
  if (!handler) return false;
  lw.emit(handler, d, a, b, c);
  return true;
}

}  // namespace bf::ptx
