// The running machine: launches, blocks, warps, groups of lanes.
//
// A warp is a set of *groups*: lanes that share a program counter and a call frame. A divergent branch splits a group;
// groups that meet at the same instruction of the same frame merge again. Among the ready groups the scheduler takes
// the one in the deepest frame, then the one with the lowest program counter, which is the natural reconvergence order
// of compiled code; a group that has used up its share of fuel lets the least recently run one go first, so that lanes
// which wait for each other (spin locks) make progress. Groups wait at barriers and at warp collectives until the lanes
// they name have arrived, wherever those are.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "softgpu/ptx/program.h"

namespace bf::ptx {

struct Block;
struct Worker;
struct Launch;

// What the interpreter is asked to do after an instruction.
enum class Event : uint8_t { kNone, kReschedule, kFault };

// A warp collective runs twice per group: all members' inputs are read, then the results written.
enum class Phase : uint8_t { kEnter, kRead, kWrite };

// One activation of a function by some lanes. Registers follow the header.
struct Frame {
  const Function* function;
  Frame* parent;
  const Inst* call;  // the calling instruction
  uint32_t lanes;    // that are in this frame or in frames it called
  uint32_t local_base;
  uint32_t depth;
  alignas(64) uint8_t registers[];
};

enum class GroupState : uint8_t { kReady, kCollective, kBarrier };

struct Group {
  const Inst* pc = nullptr;
  Frame* frame = nullptr;
  uint32_t lanes = 0;
  GroupState state = GroupState::kReady;
  uint32_t wait = 0;  // kCollective: member mask; kBarrier: barrier number
  uint64_t last_run = 0;
};

// Scratch of a warp collective: the inputs of all members.
struct Exchange {
  uint32_t members = 0;
  uint32_t predicate = 0;
  uint64_t value[kLanes];
};

struct Warp {
  const Inst* pc = nullptr;
  uint8_t* base[4] = {};
  uint32_t mask = 0;    // lanes that execute the current instruction
  uint32_t active = 0;  // lanes of the current group
  Event event = Event::kNone;
  Phase phase = Phase::kEnter;
  uint32_t group_count = 0;
  uint32_t current = 0;
  int64_t fuel = 0;
  Frame* frame = nullptr;
  Worker* worker = nullptr;
  Block* block = nullptr;
  Launch* launch = nullptr;
  uint8_t* local = nullptr;
  uint32_t local_bytes = 0;  // per lane
  uint32_t index = 0;        // in the block
  uint32_t lanes = 0;        // that exist
  uint32_t exited = 0;
  uint32_t carry = 0;       // CC.CF per lane
  uint32_t held = 0;        // lane of a group that runs out of turn
  uint32_t share_lane = 0;  // lowest lane of the group that was chosen last
  int64_t share_end = 0;    // fuel at which others get their turn
  int64_t polls = 0;        // fuel charged by poll()
  uint64_t clock = 0;
  Group groups[kLanes];
  Exchange exchange;
  Specials specials;
};

struct Barrier {
  uint32_t arrived = 0;   // threads
  uint32_t expected = 0;  // 0: all live threads of the block
  uint32_t count = 0;     // .red: threads with a true predicate
  bool in_use = false;
};

struct WarpDeleter {
  void operator()(Warp* warp) const;
};

struct SharedDeleter {
  void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t(128)); }
};

struct Block {
  Launch* launch = nullptr;
  uint64_t index = 0;
  Dim3 position{0, 0, 0};
  bool failed = false;
  std::vector<std::unique_ptr<Warp, WarpDeleter>> warps;
  std::unique_ptr<uint8_t[], SharedDeleter> shared;  // 128-byte aligned
  uint32_t shared_bytes = 0;
  uint32_t threads = 0;
  uint32_t live = 0;
  Barrier barriers[16];
  int64_t polls = 0;  // instructions of the last slice that looked like waiting for others
};

// State of one thread that runs blocks of one launch.
struct Worker {
  static constexpr int kRanges = 8;
  MemoryRange ranges[kRanges] = {};
  int last = 0, victim = 0;
  Launch* launch = nullptr;
  uint64_t instructions = 0;
  std::vector<std::vector<Frame*>> free_frames;
  ~Worker();
};

struct Launch {
  const Program* program = nullptr;
  uint8_t* pool = nullptr;
  LaunchEnvironment* environment = nullptr;
  const Function* function = nullptr;
  const KernelInfo* kernel = nullptr;
  Grid grid;
  std::vector<uint8_t> params;
  uint32_t shared_bytes = 0, dynamic_base = 0;
  uint32_t reserved_base = 0;  // end of the kernel's own shared memory
  // What cooperative groups find through %envreg1 and 2: {bytes, barrier word}. Zeroed per launch.
  alignas(16) uint32_t workspace[4] = {16, 0, 0, 0};
  uint32_t local_bytes = 0;

  std::mutex mutex;  // over the outcome
  std::atomic<bool> stop{false};
  LaunchOutcome outcome;
  bool aborted() const { return environment->abort && environment->abort->load(std::memory_order_relaxed); }
  void finish(LaunchOutcome&& result);  // the first failure wins
};

// ------------------------------------------------------------------------------------------- operands of instructions

template <typename T>
inline T* at(Warp& w, Location l) {
  return reinterpret_cast<T*>(w.base[l >> 30] + (l & 0x3fffffff));
}

// d[lane] = f(lane) for the executing lanes. Computes all lanes: f must be harmless on lanes that do not execute.
template <typename D, typename F>
inline __attribute__((always_inline)) void each(Warp& w, Location d, F f) {
  D* const out = at<D>(w, d);
  if (w.mask == ~0u) {
#pragma GCC ivdep
    for (int i = 0; i < kLanes; ++i) out[i] = f(i);
    return;
  }
  alignas(64) D result[kLanes];
#pragma GCC ivdep
  for (int i = 0; i < kLanes; ++i) result[i] = f(i);
  const uint32_t mask = w.mask;
  for (int i = 0; i < kLanes; ++i) out[i] = (mask >> i & 1) ? result[i] : out[i];
}

// Calls f(lane) for executing lanes only.
template <typename F>
inline __attribute__((always_inline)) void lanes(uint32_t mask, F f) {
  for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
}

inline void set_predicate(Warp& w, Location d, uint32_t value) {
  uint32_t* p = at<uint32_t>(w, d);
  *p = (*p & ~w.mask) | (value & w.mask);
}

// Ends the launch: `lane` is where it happened.
void fault(Warp& w, const Inst& in, LaunchCode code, int lane, const std::string& what, uint64_t address = 0);

// Charges an instruction that looks like waiting for another thread.
inline void poll(Warp& w, int64_t cost = 200) {
  w.fuel -= cost;
  w.polls += cost;
}

// ------------------------------------------------------------------------------------------------------- control flow

// Splits `lanes` off the current group; they continue at `pc` in the same frame. The caller asks for a reschedule.
void split(Warp& w, uint32_t lanes, const Inst* pc);
// Ends `lanes` of the current group.
void exit_lanes(Warp& w, uint32_t lanes);
// Lets waiting collectives go on whose members are all here or gone.
void finish_collectives(Warp& w);
// Start of a basic block: charges its fuel, and lets the scheduler merge groups.
void mark(Warp& w, const Inst& in);
Frame* new_frame(Worker& worker, const Function& function);
void free_frame(Worker& worker, Frame* frame);
// Runs the warp until its fuel is used up, all its groups wait, or it ended.
inline constexpr int64_t kTurnFuel = 20'000;  // instructions of one warp before the next one's turn
void run_warp(Warp& w);
bool warp_ready(const Warp& w);

// Runs the block until it ended (true) or its slice is used up or it failed (false).
bool run_block(Block& block, Worker& worker, int64_t slice);
std::unique_ptr<Block> start_block(Launch& launch, Worker& worker, uint64_t index);
// `arriving` lanes reach a barrier; `expected` 0: all threads. Releases the waiting groups if these were the last.
void arrive(Warp& w, uint32_t barrier, uint32_t arriving, uint32_t expected, uint32_t true_lanes);
// Threads ended: barriers for all threads may be complete now.
void finish_barriers(Block& block);

// -------------------------------------------------------------------------------------------------------------- memory

enum class Window : uint8_t { kGeneric, kGlobal, kShared, kLocal };

// Host address of [address, address + bytes) for one lane, or nullptr after fault(). `alignment` is a power of two.
uint8_t* resolve(Warp& w, const Inst& in, Window window, uint64_t address, uint32_t bytes, uint32_t alignment,
                 bool write, int lane);
// The allocation around `address`, through the worker's cache.
const MemoryRange* find_range(Worker& worker, uint64_t address);
// Reads a NUL-terminated string of at most `limit` bytes; false after fault().
bool read_string(Warp& w, const Inst& in, uint64_t address, int lane, size_t limit, std::string& out);

}  // namespace bf::ptx
