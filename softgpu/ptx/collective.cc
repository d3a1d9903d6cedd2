// Warp-wide operations: vote, shuffle, match, redux, bar.warp.sync, elect.
//
// Each is written in two phases: members leave their inputs in the warp's exchange, then take their results. A group
// that holds all members does both at once. Otherwise it waits; when the last member has come (or ended) both phases
// run over all waiting groups, wherever in the program they are.
#include "softgpu/ptx/handlers.h"

namespace bf::ptx {

// Runs the waiting groups of `members`; they become ready. The current group's context is restored.
static void complete(Warp& w, uint32_t members) {
  uint8_t* saved_base = w.base[0];
  uint32_t saved_mask = w.mask;
  Frame* saved_frame = w.frame;
  w.exchange.members = 0;
  w.exchange.predicate = 0;
  for (Phase phase : {Phase::kRead, Phase::kWrite}) {
    w.phase = phase;
    for (uint32_t i = 0; i < w.group_count; ++i) {
      Group& g = w.groups[i];
      if (g.state != GroupState::kCollective || g.wait != members) continue;
      w.frame = g.frame;
      w.base[0] = g.frame->registers;
      w.mask = g.lanes;
      if (phase == Phase::kRead) w.exchange.members |= g.lanes;
      const Inst& in = g.pc[-1];
      in.run(w, in);
    }
  }
  for (uint32_t i = 0; i < w.group_count; ++i)
    if (w.groups[i].state == GroupState::kCollective && w.groups[i].wait == members)
      w.groups[i].state = GroupState::kReady;
  w.phase = Phase::kEnter;
  w.frame = saved_frame;
  w.base[0] = saved_base;
  w.mask = saved_mask;
}

static bool all_here(const Warp& w, uint32_t members) {
  uint32_t here = w.exited | ~w.lanes;
  for (uint32_t i = 0; i < w.group_count; ++i)
    if (w.groups[i].state == GroupState::kCollective && w.groups[i].wait == members) here |= w.groups[i].lanes;
  return (members & ~here) == 0;
}

bool join_collective(Warp& w, const Inst& in) {
  const uint32_t* masks = at<uint32_t>(w, in.e);
  uint32_t members = masks[__builtin_ctz(w.mask)];
  uint32_t other = 0;
  lanes(w.mask, [&](int i) { other |= uint32_t(masks[i] != members) << i; });
  if (other) {  // lanes that name other members do this on their own
    split(w, other, &in);
    w.mask &= ~other;
    w.event = Event::kReschedule;
  }
  if ((members & w.lanes & ~w.exited & ~w.mask) == 0) {
    w.exchange.members = w.mask;
    w.exchange.predicate = 0;
    return true;
  }
  uint32_t rest = w.active & ~w.mask;
  if (rest) split(w, rest, w.pc);
  w.active = w.mask;
  Group& g = w.groups[w.current];
  g.pc = w.pc;
  g.frame = w.frame;
  g.lanes = w.mask;
  g.state = GroupState::kCollective;
  g.wait = members;
  w.event = Event::kReschedule;
  if (all_here(w, members)) complete(w, members);
  return false;
}

namespace {

struct WarpSync {
  static void read(Warp&, const Inst&) {}
  static void write(Warp&, const Inst&) {}
};

// flags: 0 all, 1 any, 2 uni, 3 ballot.
uint32_t vote_result(uint32_t how, uint32_t predicate, uint32_t members) {
  predicate &= members;
  if (how == 0) return predicate == members;
  if (how == 1) return predicate != 0;
  if (how == 2) return predicate == 0 || predicate == members;
  return predicate;
}
struct Vote {
  static void read(Warp& w, const Inst& in) { w.exchange.predicate |= *at<uint32_t>(w, in.a) & w.mask; }
  static void write(Warp& w, const Inst& in) {
    uint32_t result = vote_result(in.flags, w.exchange.predicate, w.exchange.members);
    if (in.flags == 3)
      each<uint32_t>(w, in.d, [=](int) { return result; });
    else
      set_predicate(w, in.d, result ? ~0u : 0u);
  }
};
void vote_active(Warp& w, const Inst& in) {
  w.exchange.members = w.mask;
  w.exchange.predicate = 0;
  Vote::read(w, in);
  Vote::write(w, in);
}

// flags: 0 up, 1 down, 2 bfly, 3 idx. extra: location of the predicate result.
struct Shuffle {
  static void read(Warp& w, const Inst& in) {
    const uint32_t* a = at<uint32_t>(w, in.a);
    lanes(w.mask, [&](int i) { w.exchange.value[i] = a[i]; });
  }
  static void write(Warp& w, const Inst& in) {
    const uint32_t *a = at<uint32_t>(w, in.a), *b = at<uint32_t>(w, in.b), *c = at<uint32_t>(w, in.c);
    uint32_t* d = at<uint32_t>(w, in.d);
    uint32_t valid = 0;
    lanes(w.mask, [&](int i) {
      int by = int(b[i] & 31), clamp = int(c[i] & 31), segment = int(c[i] >> 8 & 31);
      int most = (i & segment) | (clamp & ~segment), least = i & segment;
      int j = 0;
      bool p = false;
      switch (in.flags) {
        case 0:
          j = i - by;
          p = j >= most;
          break;
        case 1:
          j = i + by;
          p = j <= most;
          break;
        case 2:
          j = i ^ by;
          p = j <= most;
          break;
        default:
          j = least | (by & ~segment);
          p = j <= most;
          break;
      }
      if (!p) j = i;
      valid |= uint32_t(p) << i;
      // A lane that takes no part has no defined value; its own stands in.
      d[i] = w.exchange.members >> j & 1 ? uint32_t(w.exchange.value[j]) : a[i];
    });
    if (in.extra) set_predicate(w, in.extra, valid);
  }
};
void shuffle_active(Warp& w, const Inst& in) {
  w.exchange.members = w.mask;
  Shuffle::read(w, in);
  Shuffle::write(w, in);
}

// flags 0: any (lanes with my value), 1: all (with predicate in extra).
template <typename T>
struct Match {
  static void read(Warp& w, const Inst& in) {
    const T* a = at<T>(w, in.a);
    lanes(w.mask, [&](int i) { w.exchange.value[i] = a[i]; });
  }
  static void write(Warp& w, const Inst& in) {
    uint32_t* d = at<uint32_t>(w, in.d);
    uint32_t all = 0;
    lanes(w.mask, [&](int i) {
      uint32_t same = 0;
      lanes(w.exchange.members, [&](int k) { same |= uint32_t(w.exchange.value[k] == w.exchange.value[i]) << k; });
      if (in.flags) {
        d[i] = same == w.exchange.members ? same : 0;
        all |= uint32_t(same == w.exchange.members) << i;
      } else {
        d[i] = same;
      }
    });
    if (in.extra) set_predicate(w, in.extra, all);
  }
};

// flags: 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor; extra: signed.
struct Reduce {
  static void read(Warp& w, const Inst& in) {
    const uint32_t* a = at<uint32_t>(w, in.a);
    lanes(w.mask, [&](int i) { w.exchange.value[i] = a[i]; });
  }
  static uint32_t join(uint32_t how, bool sign, uint32_t a, uint32_t b) {
    bool less = sign ? int32_t(a) < int32_t(b) : a < b;
    switch (how) {
      case 0:
        return a + b;
      case 1:
        return less ? a : b;
      case 2:
        return less ? b : a;
      case 3:
        return a & b;
      case 4:
        return a | b;
      default:
        return a ^ b;
    }
  }
  static void write(Warp& w, const Inst& in) {
    uint32_t members = w.exchange.members;
    uint32_t result = uint32_t(w.exchange.value[__builtin_ctz(members)]);
    lanes(members & (members - 1),
          [&](int k) { result = join(in.flags, in.extra, result, uint32_t(w.exchange.value[k])); });
    each<uint32_t>(w, in.d, [=](int) { return result; });
  }
};

struct Elect {
  static void read(Warp&, const Inst&) {}
  static void write(Warp& w, const Inst& in) {
    uint32_t leader = uint32_t(__builtin_ctz(w.exchange.members));
    each<uint32_t>(w, in.d, [=](int) { return leader; });
    set_predicate(w, in.extra, 1u << leader);
  }
};

void active_mask(Warp& w, const Inst& in) {
  uint32_t mask = w.mask;
  each<uint32_t>(w, in.d, [=](int) { return mask; });
}

// ------------------------------------------------------------------------------------------------------ rules

bool rule_vote(Lower& lw) {
  bool sync = lw.take("sync");
  int how = lw.take_any({"all", "any", "uni", "ballot"});
  if (how < 0 || !lw.take(how == 3 ? "b32" : "pred") || !lw.expect_operands(sync ? 3 : 2, sync ? 3 : 2)) return false;
  Location d = how == 3 ? lw.dst(0, Type::kB32) : lw.dst_predicate(0);
  Location a = lw.src_predicate(lw.operand(1)), e = sync ? lw.src(2, Type::kB32) : 0;
  Inst& inst = lw.emit(sync ? collective_handler<Vote>() : Handler(vote_active), d, a);
  inst.e = e;
  inst.flags = uint32_t(how);
  return true;
}

bool rule_shfl(Lower& lw) {
  bool sync = lw.take("sync");
  int how = lw.take_any({"up", "down", "bfly", "idx"});
  if (how < 0 || !lw.take("b32") || !lw.expect_operands(sync ? 5 : 4, sync ? 5 : 4)) return false;
  Type t = Type::kB32;
  Location p = lw.operand(0).second.empty() ? 0 : lw.dst_predicate(lw.operand(0).second);
  Location e = sync ? lw.src(4, t) : 0;
  Inst& inst = lw.emit(sync ? collective_handler<Shuffle>() : Handler(shuffle_active), lw.dst(0, t), lw.src(1, t),
                       lw.src(2, t), lw.src(3, t));
  inst.e = e;
  inst.extra = p;
  inst.flags = uint32_t(how);
  return true;
}

bool rule_match(Lower& lw) {
  int how = lw.take_any({"any", "all"});
  if (how < 0 || !lw.take("sync")) return false;
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 3) || (t != Type::kB32 && t != Type::kB64)) return false;
  Location p = lw.operand(0).second.empty() ? 0 : lw.dst_predicate(lw.operand(0).second);
  Location e = lw.src(2, Type::kB32);
  Inst& inst = lw.emit(t == Type::kB32 ? collective_handler<Match<uint32_t>>() : collective_handler<Match<uint64_t>>(),
                       lw.dst(0, Type::kB32), lw.src(1, t));
  inst.e = e;
  inst.extra = p;
  inst.flags = uint32_t(how);
  return true;
}

bool rule_redux(Lower& lw) {
  if (!lw.take("sync")) return false;
  int how = lw.take_any({"add", "min", "max", "and", "or", "xor"});
  Type t = lw.take_type();
  if (how < 0 || type_kind(t) == 'f' || type_bytes(t) != 4 || !lw.expect_operands(3, 3)) return false;
  Location e = lw.src(2, Type::kB32);
  Inst& inst = lw.emit(collective_handler<Reduce>(), lw.dst(0, t), lw.src(1, t));
  inst.e = e;
  inst.flags = uint32_t(how);
  inst.extra = t == Type::kS32;
  return true;
}

bool rule_elect(Lower& lw) {
  if (!lw.take("sync") || !lw.expect_operands(2, 2)) return false;
  Location p = lw.dst_predicate(lw.operand(0).second), e = lw.src(1, Type::kB32);
  Inst& inst = lw.emit(collective_handler<Elect>(), lw.dst(0, Type::kB32));
  inst.e = e;
  inst.extra = p;
  return true;
}

bool rule_activemask(Lower& lw) {
  if (!lw.take("b32") || !lw.expect_operands(1, 1)) return false;
  lw.emit(active_mask, lw.dst(0, Type::kB32));
  return true;
}

constexpr NamedRule kRules[] = {{"vote", rule_vote},   {"shfl", rule_shfl},   {"match", rule_match},
                                {"redux", rule_redux}, {"elect", rule_elect}, {"activemask", rule_activemask}};

}  // namespace

void finish_collectives(Warp& w) {
  for (uint32_t i = 0; i < w.group_count; ++i) {
    const Group& g = w.groups[i];
    if (g.state == GroupState::kCollective && all_here(w, g.wait)) complete(w, g.wait);
  }
}

bool rule_bar_warp(Lower& lw) {
  if (!lw.take("sync") || !lw.expect_operands(1, 1)) return false;
  Location e = lw.src(0, Type::kB32);
  lw.emit(collective_handler<WarpSync>()).e = e;
  return true;
}

std::span<const NamedRule> warp_rules() { return kRules; }

}  // namespace bf::ptx
