// Groups of lanes, their scheduling, and the interpreter's loop.
#include <cstdlib>
#include <new>

#include "softgpu/ptx/image.h"
#include "softgpu/ptx/machine.h"

namespace bf::ptx {
namespace {

// A group that has used this much fuel since it was chosen lets others go first.
constexpr int64_t kGroupShare = 20'000;

bool deeper(const Group& a, const Group& b) {
  if (a.frame->depth != b.frame->depth) return a.frame->depth > b.frame->depth;
  return a.pc < b.pc;
}

void save(Warp& w) {
  Group& g = w.groups[w.current];
  g.pc = w.pc;
  g.frame = w.frame;
  g.lanes = w.active;
  g.last_run = ++w.clock;
}

void remove_group(Warp& w, uint32_t index) {
  --w.group_count;
  if (index != w.group_count) w.groups[index] = w.groups[w.group_count];
}

// Joins ready groups that stand at the same place.
void merge(Warp& w) {
  for (uint32_t i = 0; i < w.group_count; ++i) {
    Group& g = w.groups[i];
    if (g.state != GroupState::kReady) continue;
    for (uint32_t k = i + 1; k < w.group_count;) {
      Group& h = w.groups[k];
      if (h.state == GroupState::kReady && h.frame == g.frame && h.pc == g.pc) {
        g.lanes |= h.lanes;
        if (h.last_run > g.last_run) g.last_run = h.last_run;
        remove_group(w, k);
      } else {
        ++k;
      }
    }
  }
}

// Chooses a ready group and makes it current; false: there is none. A group that was chosen for fairness keeps its
// place until its share is used, or the next mark would give it away again.
bool choose(Warp& w, bool fair) {
  merge(w);
  int best = -1;
  for (uint32_t i = 0; i < w.group_count; ++i) {
    const Group& g = w.groups[i];
    if (g.state != GroupState::kReady) continue;
    if (!fair && (g.lanes & w.held)) {
      best = int(i);
      break;
    }
    if (best < 0 || (fair ? g.last_run < w.groups[best].last_run : deeper(g, w.groups[best]))) best = int(i);
  }
  if (best < 0) return false;
  w.current = uint32_t(best);
  Group& g = w.groups[best];
  uint32_t first = g.lanes & -g.lanes;
  if (fair || !(g.lanes & w.held)) w.held = fair ? first : 0;
  if (first != w.share_lane || fair) w.share_lane = first, w.share_end = w.fuel - kGroupShare;
  w.pc = g.pc;
  w.frame = g.frame;
  w.active = g.lanes;
  w.base[0] = g.frame->registers;
  return true;
}

}  // namespace

Worker::~Worker() {
  for (auto& list : free_frames)
    for (Frame* frame : list) free(frame);
}

Frame* new_frame(Worker& worker, const Function& function) {
  if (worker.free_frames.size() <= function.index) worker.free_frames.resize(function.index + 1);
  auto& list = worker.free_frames[function.index];
  Frame* frame;
  if (!list.empty()) {
    frame = list.back();
    list.pop_back();
  } else {
    size_t bytes = (sizeof(Frame) + function.frame_bytes + 63) & ~size_t{63};
    void* memory = aligned_alloc(64, bytes);
    if (!memory) throw std::bad_alloc();
    memset(memory, 0, bytes);
    frame = static_cast<Frame*>(memory);
  }
  frame->function = &function;
  frame->parent = nullptr;
  frame->call = nullptr;
  return frame;
}

void free_frame(Worker& worker, Frame* frame) {
  uint32_t index = frame->function->index;
  if (worker.free_frames.size() <= index) worker.free_frames.resize(index + 1);
  worker.free_frames[index].push_back(frame);
}

void split(Warp& w, uint32_t lanes, const Inst* pc) {
  Group& g = w.groups[w.group_count++];
  g = Group{pc, w.frame, lanes, GroupState::kReady, 0, ++w.clock};
  w.active &= ~lanes;
}

void exit_lanes(Warp& w, uint32_t gone) {
  w.exited |= gone;
  w.active &= ~gone;
  w.block->live -= uint32_t(__builtin_popcount(gone));
  for (Frame* frame = w.frame; frame;) {
    Frame* parent = frame->parent;
    frame->lanes &= ~gone;
    if (frame->lanes == 0) free_frame(*w.worker, frame);
    frame = parent;
  }
}

void mark(Warp& w, const Inst& in) {
  w.fuel -= int64_t(in.imm);
  if (w.group_count > 1 || w.fuel <= 0) {
    w.pc = &in;
    w.event = Event::kReschedule;
  }
}

bool warp_ready(const Warp& w) {
  for (uint32_t i = 0; i < w.group_count; ++i)
    if (w.groups[i].state == GroupState::kReady) return true;
  return false;
}

void run_warp(Warp& w) {
  bool fair = false;
  for (;;) {
    if (!choose(w, fair)) return;
    for (;;) {  // the current group, until it is no longer the one to run
      w.event = Event::kNone;
      // A mark would only ask for the reschedule that has just been done.
      if (w.pc->run == mark) w.fuel -= int64_t(w.pc->imm), ++w.pc;
      while (w.event == Event::kNone) {
        const Inst& in = *w.pc++;
        uint32_t mask = w.active;
        if (in.guard != kNoGuard) {
          uint32_t predicate = *reinterpret_cast<uint32_t*>(w.frame->registers + (in.guard & ~kGuardNegated));
          mask &= in.guard & kGuardNegated ? ~predicate : predicate;
          if (mask == 0) continue;
        }
        w.mask = mask;
        in.run(w, in);
      }
      if (w.event == Event::kFault) {
        if (w.active) save(w);  // so that the block knows which frames are left
        return;
      }
      if (w.group_count == 1 && w.active && w.groups[0].state == GroupState::kReady && w.fuel > 0) continue;
      break;
    }
    if (w.active) {
      save(w);
    } else {
      remove_group(w, w.current);
    }
    fair = w.fuel < w.share_end;
    if (w.fuel <= 0) {
      w.share_end += kTurnFuel - w.fuel;  // the share goes on in the next turn
      return;
    }
  }
}

}  // namespace bf::ptx
