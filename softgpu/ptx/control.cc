// Branches, calls, barriers and the end of threads.
#include <cstddef>

#include "softgpu/ptx/image.h"
#include "softgpu/ptx/lower.h"
#include "softgpu/ptx/machine.h"

namespace bf::ptx {

// The lanes that do not execute this instruction go on behind it, in a group of their own.
static void leave_others(Warp& w) {
  uint32_t others = w.active & ~w.mask;
  if (others) split(w, others, w.pc);
}

static void branch(Warp& w, const Inst& in) {
  const Inst* target = w.frame->function->code.data() + in.extra;
  if (w.mask == w.active) {
    w.pc = target;
    if (w.group_count > 1) w.event = Event::kReschedule;
    return;
  }
  split(w, w.mask, target);
  w.event = Event::kReschedule;
}

// brx.idx: lanes with the first lane's target go there, the others try again.
static void branch_indexed(Warp& w, const Inst& in) {
  const uint32_t* index = at<uint32_t>(w, in.a);
  const uint32_t* targets = &w.frame->function->extra[in.extra];
  leave_others(w);
  uint32_t first = index[__builtin_ctz(w.mask)];
  if (first >= in.imm)
    return fault(w, in, LaunchCode::kInvalidProgramCounter, __builtin_ctz(w.mask), "brx.idx: index out of range");
  uint32_t other = 0;
  lanes(w.mask, [&](int i) { other |= uint32_t(index[i] != first) << i; });
  if (other) split(w, other, &in);
  w.pc = w.frame->function->code.data() + targets[first];
  w.event = Event::kReschedule;
}

void exit_thread(Warp& w, const Inst&) {
  uint32_t gone = w.mask;
  exit_lanes(w, gone);
  finish_collectives(w);
  finish_barriers(*w.block);
  if (w.active == 0) w.event = Event::kReschedule;
}

void trap_thread(Warp& w, const Inst& in) { fault(w, in, LaunchCode::kTrap, __builtin_ctz(w.mask), "trap"); }

// Copies parameter bytes of the executing lanes between two places in local memory.
static void copy_slots(Warp& w, uint32_t to, uint32_t from, uint32_t bytes) {
  lanes(w.mask, [&](int i) {
    uint8_t* lane = w.local + size_t(i) * w.local_bytes;
    memcpy(lane + to, lane + from, bytes);
  });
}

static void enter(Warp& w, const Inst& in, const Function& callee) {
  const Function& caller = *w.frame->function;
  uint32_t base = w.frame->local_base + uint32_t(frame_cost(caller.local_bytes));
  if (uint64_t(base) + frame_cost(callee.local_bytes) > w.local_bytes)
    return fault(w, in, LaunchCode::kStackOverflow, __builtin_ctz(w.mask), "stack overflow in call of " + callee.name);
  const uint32_t* words = &caller.extra[in.extra];
  const uint32_t* arguments = words + 1 + 2 * words[0];
  for (uint32_t i = 0; i < arguments[0] && i < callee.params.size(); ++i)
    copy_slots(w, base + callee.params[i].offset, w.frame->local_base + arguments[1 + 2 * i],
               std::min(arguments[2 + 2 * i], callee.params[i].bytes));
  leave_others(w);
  Frame* frame = new_frame(*w.worker, callee);
  frame->parent = w.frame;
  frame->call = &in;
  frame->lanes = w.mask;
  frame->local_base = base;
  frame->depth = w.frame->depth + 1;
  w.active = w.mask;
  w.frame = frame;
  w.base[0] = frame->registers;
  w.pc = callee.code.data();
}

void call_direct(Warp& w, const Inst& in) { enter(w, in, w.launch->program->functions[in.imm]); }

void call_indirect(Warp& w, const Inst& in) {
  const uint64_t* pointer = at<uint64_t>(w, in.a);
  int leader = __builtin_ctz(w.mask);
  uint64_t target = pointer[leader];
  uint64_t index = (target & ((uint64_t{1} << kWindowShift) - 1)) / 16;
  const auto& functions = w.launch->program->functions;
  if (target >> kWindowShift != kFunctionWindow || target % 16 || index >= functions.size() || functions[index].kernel)
    return fault(w, in, LaunchCode::kInvalidProgramCounter, leader, "indirect call to an address that is no function",
                 target);
  uint32_t other = 0;
  lanes(w.mask, [&](int i) { other |= uint32_t(pointer[i] != target) << i; });
  leave_others(w);
  w.active = w.mask;
  if (other) split(w, other, &in);
  w.mask &= ~other;
  enter(w, in, functions[index]);
}

void return_thread(Warp& w, const Inst& in) {
  Frame* frame = w.frame;
  Frame* parent = frame->parent;
  if (!parent) return exit_thread(w, in);
  const Function& callee = *frame->function;
  const uint32_t* words = &parent->function->extra[frame->call->extra];
  for (uint32_t i = 0; i < words[0] && i < callee.returns.size(); ++i)
    copy_slots(w, parent->local_base + words[1 + 2 * i], frame->local_base + callee.returns[i].offset,
               std::min(words[2 + 2 * i], callee.returns[i].bytes));
  leave_others(w);
  w.active = w.mask;
  w.pc = frame->call + 1;
  w.frame = parent;
  w.base[0] = parent->registers;
  frame->lanes &= ~w.mask;
  if (frame->lanes == 0) free_frame(*w.worker, frame);
  if (w.group_count > 1) w.event = Event::kReschedule;
}

// bar.sync a, b and relatives. imm bit 0: arrive only; flags: 1 popc, 2 and, 3 or.
static void barrier(Warp& w, const Inst& in) {
  int leader = __builtin_ctz(w.mask);
  uint32_t index = at<uint32_t>(w, in.a)[leader];
  uint32_t expected = in.b ? at<uint32_t>(w, in.b)[leader] : 0;
  if (index >= 16) return fault(w, in, LaunchCode::kIllegalInstruction, leader, "barrier number above 15");
  uint32_t arriving = w.mask;
  uint32_t true_lanes = 0;
  if (in.flags) true_lanes = arriving & *at<uint32_t>(w, in.c);
  if (in.imm & 1) return arrive(w, index, arriving, expected, 0);
  leave_others(w);
  w.active = arriving;
  Group& g = w.groups[w.current];
  g.pc = w.pc;
  g.frame = w.frame;
  g.lanes = arriving;
  g.state = GroupState::kBarrier;
  g.wait = index;
  arrive(w, index, arriving, expected, true_lanes);
  w.event = Event::kReschedule;
}

static void sleep_hint(Warp& w, const Inst&) { poll(w, 1000); }

namespace {

bool rule_bra(Lower& lw) {
  lw.take("uni");
  uint32_t label;
  if (!lw.expect_operands(1, 1) || !lw.branch_target(lw.operand(0).name, label)) return false;
  lw.emit(branch);
  lw.patch_branch(lw.function().code.size() - 1, label);
  return true;
}

bool rule_brx(Lower& lw) {
  std::vector<std::string_view> names;
  lw.take("uni");
  if (!lw.take("idx") || !lw.expect_operands(2, 2) || !lw.find_targets(lw.operand(1).name, names)) return false;
  Location index = lw.src(0, Type::kU32);
  std::vector<uint32_t> zeros(names.size());
  uint32_t first = lw.extra(zeros);
  for (size_t i = 0; i < names.size(); ++i) {
    uint32_t label;
    if (!lw.branch_target(names[i], label)) return false;
    lw.patch_extra(first + i, label);
  }
  Inst& inst = lw.emit(branch_indexed, 0, index);
  inst.extra = first;
  inst.imm = names.size();
  return true;
}

bool rule_call(Lower& lw) { return lw.call(); }

bool rule_ret(Lower& lw) {
  lw.take("uni");
  lw.emit(lw.in_kernel() ? exit_thread : return_thread);
  return true;
}

bool rule_exit(Lower& lw) {
  lw.emit(exit_thread);
  return true;
}

bool rule_trap(Lower& lw) {
  lw.emit(trap_thread);
  return true;
}

bool rule_nanosleep(Lower& lw) {
  lw.take("u32");
  lw.emit(sleep_hint);
  return true;
}

bool rule_nothing(Lower& lw) {
  while (lw.peek_type() != Type::kNone) lw.take_type();
  lw.take_any({"launch_dependents", "wait"});
  lw.take_any({"inc", "dec"});
  lw.take("sync");
  lw.take("aligned");
  return true;
}

// bar, barrier: {.cta}.sync/.arrive/.red{.popc/.and/.or}{.aligned}{.u32/.pred}; bar.warp.sync is a collective.
bool rule_barrier(Lower& lw) {
  if (lw.take("warp")) return rule_bar_warp(lw);
  lw.take("cta");
  int kind = lw.take_any({"sync", "arrive", "red"});
  if (kind < 0) return false;
  lw.take("aligned");
  size_t next = 0;
  Location d = 0;
  uint32_t reduction = 0;
  if (kind == 2) {
    reduction = uint32_t(lw.take_any({"popc", "and", "or"}) + 1);
    if (reduction == 0) return false;
    lw.take_type();
    d = reduction == 1 ? lw.dst(next, Type::kU32) : lw.dst_predicate(next);
    ++next;
  }
  Location a = lw.src(next++, Type::kU32);
  size_t left = lw.operand_count() - next - (kind == 2 ? 1 : 0);
  Location b = left == 1 ? lw.src(next++, Type::kU32) : 0;
  if (left > 1 || (kind == 1 && left != 1)) return lw.refuse("wrong number of operands");
  Location c = kind == 2 ? lw.src_predicate(lw.operand(next)) : 0;
  Inst& inst = lw.emit(barrier, d, a, b, c);
  inst.flags = reduction;
  inst.imm = kind == 1;
  return true;
}

constexpr NamedRule kRules[] = {
    {"bra", rule_bra},
    {"brx", rule_brx},
    {"call", rule_call},
    {"ret", rule_ret},
    {"exit", rule_exit},
    {"trap", rule_trap},
    {"brkpt", rule_nothing},
    {"nanosleep", rule_nanosleep},
    {"bar", rule_barrier},
    {"barrier", rule_barrier},
    {"setmaxnreg", rule_nothing},
    {"griddepcontrol", rule_nothing},
    {"pmevent", rule_nothing},
};

}  // namespace

std::span<const NamedRule> control_rules() { return kRules; }

}  // namespace bf::ptx
