// What `bfrun --stats` counts: memory that bfrun makes and the shims of the processes it starts map, named to them in
// BF_STATS. It outlives them all, however they end. Every word is only ever added to, so that nobody has to agree with
// anybody; threads spread over blocks so that they seldom share a cache line.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bf {

struct FunctionCounters {
  std::atomic<uint64_t> calls;        // by the program
  std::atomic<uint64_t> local;        // of them: answered without a frame
  std::atomic<uint64_t> posts;        // frames without an answer
  std::atomic<uint64_t> round_trips;  // frames that were waited for
  std::atomic<uint64_t> wait_ns;      // the program's threads stood still: for replies, for bytes, for room to send
  std::atomic<uint64_t> bytes_up;     // to the server: frames, and bulk transfers
  std::atomic<uint64_t> bytes_down;
  std::atomic<uint64_t> unused;
};
static_assert(sizeof(FunctionCounters) == 64);

struct StatsMemory {
  static constexpr uint64_t kMagic = 0x0001'7374'6174'7366;  // changes with the layout
  static constexpr size_t kFunctions = 1024, kBlocks = 64, kNameBytes = 64;

  std::atomic<uint64_t> magic;
  std::atomic<uint32_t> processes;   // that used the shim
  std::atomic<uint32_t> next_block;  // a thread takes the next one, modulo kBlocks
  char names[kFunctions][kNameBytes];
  alignas(64) FunctionCounters blocks[kBlocks][kFunctions];
};

}  // namespace bf
