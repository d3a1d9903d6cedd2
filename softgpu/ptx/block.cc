// One block: its warps take turns on the calling thread; barriers hold groups of lanes back.
#include <cstdlib>
#include <new>

#include "softgpu/ptx/image.h"
#include "softgpu/ptx/machine.h"

namespace bf::ptx {
namespace {

void fill(uint32_t (&lanes)[kLanes], uint32_t value) {
  for (uint32_t& lane : lanes) lane = value;
}

void fill_specials(Warp& w, const Block& block) {
  const Launch& launch = *block.launch;
  Specials& s = w.specials;
  const Dim3& dim = launch.grid.block;
  const uint32_t ntid[3] = {dim.x, dim.y, dim.z};
  const uint32_t ctaid[3] = {block.position.x, block.position.y, block.position.z};
  const uint32_t nctaid[3] = {launch.grid.grid.x, launch.grid.grid.y, launch.grid.grid.z};
  const uint32_t multiprocessors = std::max(1u, launch.environment->multiprocessors);
  for (int k = 0; k < 3; ++k) {
    fill(s.ntid[k], ntid[k]);
    fill(s.ctaid[k], ctaid[k]);
    fill(s.nctaid[k], nctaid[k]);
  }
  fill(s.warpid, w.index);
  fill(s.nwarpid, (block.threads + kLanes - 1) / kLanes);
  fill(s.smid, uint32_t(block.index % multiprocessors));
  fill(s.nsmid, multiprocessors);
  fill(s.dynamic_shared, launch.grid.dynamic_shared_bytes);
  fill(s.total_shared, launch.reserved_base);
  fill(s.zero32, 0);
  fill(s.one32, 1);
  const uint64_t workspace = launch.grid.cooperative ? reinterpret_cast<uint64_t>(launch.workspace) : 0;
  fill(s.workspace_high, uint32_t(workspace >> 32));
  fill(s.workspace_low, uint32_t(workspace));
  fill(s.reserved_begin, launch.reserved_base);
  fill(s.reserved_end, launch.shared_bytes);
  fill(s.reserved_bytes, launch.shared_bytes - launch.reserved_base);
  for (uint32_t i = 0; i < kLanes; ++i) {
    uint32_t t = w.index * kLanes + i;
    s.tid[0][i] = t % dim.x;
    s.tid[1][i] = t / dim.x % dim.y;
    s.tid[2][i] = t / dim.x / dim.y;
    s.laneid[i] = i;
    s.lanemask_eq[i] = 1u << i;
    s.lanemask_lt[i] = (1u << i) - 1;
    s.lanemask_le[i] = s.lanemask_lt[i] | 1u << i;
    s.lanemask_ge[i] = ~s.lanemask_lt[i];
    s.lanemask_gt[i] = ~s.lanemask_le[i];
    s.gridid[i] = launch.environment->grid_id;
    s.dynamic_base[i] = launch.dynamic_base;
  }
}

void write_reduction(Warp& w, const Group& g, const Barrier& barrier) {
  const Inst& in = g.pc[-1];
  if (in.flags == 0) return;
  uint8_t* saved = w.base[0];
  uint32_t saved_mask = w.mask;
  w.base[0] = g.frame->registers;
  w.mask = g.lanes;
  uint32_t count = barrier.count;
  if (in.flags == 1)
    each<uint32_t>(w, in.d, [=](int) { return count; });
  else
    set_predicate(w, in.d, (in.flags == 2 ? count == barrier.arrived : count != 0) ? ~0u : 0u);
  w.base[0] = saved;
  w.mask = saved_mask;
}

void finish_if_complete(Block& block, uint32_t index) {
  Barrier& barrier = block.barriers[index];
  if (!barrier.in_use || barrier.arrived < (barrier.expected ? barrier.expected : block.live)) return;
  for (auto& warp : block.warps)
    for (uint32_t i = 0; i < warp->group_count; ++i) {
      Group& g = warp->groups[i];
      if (g.state != GroupState::kBarrier || g.wait != index) continue;
      write_reduction(*warp, g, barrier);
      g.state = GroupState::kReady;
    }
  barrier = Barrier{};
}

}  // namespace

void WarpDeleter::operator()(Warp* warp) const {
  // A block that ended early leaves frames behind.
  for (uint32_t i = 0; i < warp->group_count; ++i)
    for (Frame* frame = warp->groups[i].frame; frame;) {
      Frame* parent = frame->parent;
      frame->lanes &= ~warp->groups[i].lanes;
      if (frame->lanes == 0) free(frame);
      frame = parent;
    }
  free(warp->local);
  delete warp;
}

void arrive(Warp& w, uint32_t index, uint32_t arriving, uint32_t expected, uint32_t true_lanes) {
  Barrier& barrier = w.block->barriers[index];
  barrier.in_use = true;
  if (expected) barrier.expected = expected;
  barrier.arrived += uint32_t(__builtin_popcount(arriving));
  // Barriers with a count count whole warps: the lanes that the last warp lacks arrive with its first one.
  if (expected && (arriving & 1)) barrier.arrived += kLanes - uint32_t(__builtin_popcount(w.lanes));
  barrier.count += uint32_t(__builtin_popcount(true_lanes));
  finish_if_complete(*w.block, index);
}

void finish_barriers(Block& block) {
  for (uint32_t i = 0; i < 16; ++i)
    if (block.barriers[i].in_use && !block.barriers[i].expected) finish_if_complete(block, i);
}

std::unique_ptr<Block> start_block(Launch& launch, Worker& worker, uint64_t index) {
  auto block = std::make_unique<Block>();
  block->launch = &launch;
  block->index = index;
  const Dim3& grid = launch.grid.grid;
  block->position = {uint32_t(index % grid.x), uint32_t(index / grid.x % grid.y),
                     uint32_t(index / (uint64_t(grid.x) * grid.y))};
  block->threads = block->live = uint32_t(launch.grid.block.count());
  block->shared_bytes = launch.shared_bytes;
  block->shared.reset(new (std::align_val_t(128)) uint8_t[launch.shared_bytes + 16]());
  for (uint32_t first = 0; first < block->threads; first += kLanes) {
    std::unique_ptr<Warp, WarpDeleter> warp(new Warp);
    Warp& w = *warp;
    w.block = block.get();
    w.launch = &launch;
    w.index = first / kLanes;
    uint32_t threads = std::min<uint32_t>(kLanes, block->threads - first);
    w.lanes = threads == kLanes ? ~0u : (1u << threads) - 1;
    w.local_bytes = launch.local_bytes;
    if (w.local_bytes) {
      w.local = static_cast<uint8_t*>(calloc(kLanes, w.local_bytes));
      if (!w.local) throw std::bad_alloc();
    }
    fill_specials(w, *block);
    w.base[1] = launch.pool;
    w.base[2] = reinterpret_cast<uint8_t*>(&w.specials);
    Frame* frame = new_frame(worker, *launch.function);
    frame->lanes = w.lanes;
    frame->local_base = 0;
    frame->depth = 0;
    w.groups[0] = Group{launch.function->code.data(), frame, w.lanes, GroupState::kReady, 0, 0};
    w.group_count = 1;
    block->warps.push_back(std::move(warp));
  }
  return block;
}

bool run_block(Block& block, Worker& worker, int64_t slice) {
  block.polls = 0;
  int64_t used = 0;
  while (block.live > 0) {
    bool ran = false;
    for (auto& warp : block.warps) {
      Warp& w = *warp;
      if (!warp_ready(w)) continue;
      ran = true;
      w.worker = &worker;
      w.fuel = kTurnFuel;
      w.polls = 0;
      run_warp(w);
      used += kTurnFuel - w.fuel;
      worker.instructions += uint64_t(kTurnFuel - w.fuel - w.polls) * kLanes;
      block.polls += w.polls;
      if (w.event == Event::kFault) {
        block.failed = true;
        return false;
      }
    }
    if (!ran) {
      LaunchOutcome outcome;
      outcome.code = LaunchCode::kDeadlock;
      outcome.message = "kernel " + block.launch->kernel->name + ": " + std::to_string(block.live) +
                        " threads of a block wait at barriers that no thread will complete";
      outcome.where.block = block.position;
      block.launch->finish(std::move(outcome));
      block.failed = true;
      return false;
    }
    if (used >= slice && block.live > 0) return false;
    if (block.launch->stop.load(std::memory_order_relaxed)) return false;
  }
  return true;
}

}  // namespace bf::ptx
