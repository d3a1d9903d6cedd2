// mbarrier objects in shared memory. Their 64 bits are ours to define: pending arrivals (20 bits), expected arrivals
// (20), phase (1), pending transaction bytes (23, signed). A phase completes when no arrival and no byte is pending. A
// block runs on one thread, so nothing here needs to be atomic. Asynchronous copies complete at once (memory.cc).
#include "softgpu/ptx/handlers.h"

namespace bf::ptx {
namespace {

constexpr uint64_t kCountMask = (1u << 20) - 1;

struct State {
  uint64_t pending, expected, phase;
  int64_t bytes;
  explicit State(uint64_t word)
      : pending(word & kCountMask),
        expected(word >> 20 & kCountMask),
        phase(word >> 40 & 1),
        bytes(int64_t(word) >> 41) {}
  uint64_t word() const {
    return (pending & kCountMask) | (expected & kCountMask) << 20 | phase << 40 | uint64_t(bytes) << 41;
  }
  void complete_if_done() {
    if (pending == 0 && bytes == 0) phase ^= 1, pending = expected;
  }
};

enum Operation : uint32_t { kInit, kInvalidate, kArrive, kArriveDrop, kExpect, kArriveExpect, kComplete };

// flags: operation | window << 8. b: count or bytes, c: unused; d: state before.
void change(Warp& w, const Inst& in) {
  const uint32_t operation = in.flags & 255;
  const uint32_t* operand = in.b ? at<uint32_t>(w, in.b) : nullptr;
  uint64_t* before = in.d ? at<uint64_t>(w, in.d) : nullptr;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    auto* word = reinterpret_cast<uint64_t*>(
        resolve(w, in, Window(in.flags >> 8), at<uint64_t>(w, in.a)[i] + in.imm, 8, 8, true, i));
    if (!word) return;
    uint32_t value = operand ? operand[i] : 1;
    State s(*word);
    if (before) before[i] = *word;
    switch (operation) {
      case kInit:
        s = State(0), s.pending = s.expected = value & kCountMask;
        break;
      case kInvalidate:
        s = State(0);
        break;
      case kExpect:
        s.bytes += value;
        break;
      case kComplete:
        s.bytes -= value, s.complete_if_done();
        break;
      case kArriveExpect:
        s.bytes += value, value = 1;
        [[fallthrough]];
      default:
        if (value > s.pending)
          return fault(w, in, LaunchCode::kIllegalInstruction, i, "more arrivals at an mbarrier than it expects");
        s.pending -= value;
        if (operation == kArriveDrop) s.expected -= std::min<uint64_t>(value, s.expected);
        s.complete_if_done();
    }
    *word = s.word();
  }
}

// flags bit 0: parity in b (32 bits), else state in b (64 bits); window << 8.
void test(Warp& w, const Inst& in) {
  uint32_t result = 0;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    auto* word = reinterpret_cast<uint64_t*>(
        resolve(w, in, Window(in.flags >> 8), at<uint64_t>(w, in.a)[i] + in.imm, 8, 8, false, i));
    if (!word) return;
    uint64_t phase = in.flags & 1 ? at<uint32_t>(w, in.b)[i] & 1 : State(at<uint64_t>(w, in.b)[i]).phase;
    result |= uint32_t(State(*word).phase != phase) << i;
  }
  set_predicate(w, in.d, result);
  if (result != w.mask) poll(w);
}

void pending_count(Warp& w, const Inst& in) {
  const uint64_t* a = at<uint64_t>(w, in.a);
  each<uint32_t>(w, in.d, [=](int i) { return uint32_t(State(a[i]).pending); });
}

uint32_t take_where(Lower& lw) {
  lw.take_any({"relaxed", "acquire", "release"});
  lw.take_any({"cta", "cluster"});
  return lw.take_any({"shared", "shared::cta"}) < 0 ? uint32_t(Window::kGeneric) : uint32_t(Window::kShared);
}

bool rule_mbarrier(Lower& lw) {
  int operation = lw.take_any(
      {"init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait", "pending_count"});
  if (operation < 0) return false;
  bool expect = operation == 2 && lw.take("expect_tx");
  lw.take("noComplete");
  bool parity = lw.take("parity");
  uint32_t window = take_where(lw);
  if (!lw.take("b64")) return false;
  if (operation == 8) {
    if (!lw.expect_operands(2, 2)) return false;
    lw.emit(pending_count, lw.dst(0, Type::kB32), lw.src(1, Type::kB64));
    return true;
  }
  bool waits = operation >= 6;
  // A result comes first for waits and, unless it is left out, for arrivals.
  size_t first =
      waits || ((operation == 2 || operation == 3) && lw.operand(0).kind != ast::OperandKind::kAddress) ? 1 : 0;
  Lower::Address address;
  if (!lw.address(lw.operand(first), address) || address.kind != Lower::Address::kRegister) return false;
  if (waits) {
    if (!lw.expect_operands(3, 4)) return false;
    Location b = lw.src(2, parity ? Type::kU32 : Type::kB64);
    Inst& inst = lw.emit(test, lw.dst_predicate(0), address.base, b);
    inst.imm = address.offset;
    inst.flags = uint32_t(parity) | window << 8;
    return true;
  }
  if (!lw.expect_operands(first + 1, first + 2)) return false;
  static constexpr uint32_t kOperations[] = {kInit, kInvalidate, kArrive, kArriveDrop, kExpect, kComplete};
  uint32_t code = expect ? uint32_t(kArriveExpect) : kOperations[operation];
  bool has_value = lw.operand_count() == first + 2;
  if (!has_value && code != kInvalidate && code != kArrive && code != kArriveDrop)
    return lw.refuse("an operand is missing");
  Location d = first == 1 ? lw.dst(0, Type::kB64) : 0, b = has_value ? lw.src(first + 1, Type::kU32) : 0;
  Inst& inst = lw.emit(change, d, address.base, b);
  inst.imm = address.offset;
  inst.flags = code | window << 8;
  return true;
}

constexpr NamedRule kRules[] = {{"mbarrier", rule_mbarrier}};

}  // namespace

// cp.async.mbarrier.arrive: the copies are complete, so this arrives now; without .noinc it takes back what it adds.
bool rule_copy_arrive(Lower& lw) {
  if (!lw.take("mbarrier") || !lw.take("arrive")) return false;
  bool counts = lw.take("noinc");
  uint32_t window = take_where(lw);
  Lower::Address address;
  if (!lw.take("b64") || !lw.expect_operands(1, 1) || !lw.address(lw.operand(0), address) ||
      address.kind != Lower::Address::kRegister)
    return false;
  if (!counts) return true;
  Inst& inst = lw.emit(change, 0, address.base);
  inst.imm = address.offset;
  inst.flags = uint32_t(kArrive) | window << 8;
  return true;
}

std::span<const NamedRule> mbarrier_rules() { return kRules; }

}  // namespace bf::ptx
