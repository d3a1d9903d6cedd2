// Handle values: what a program holds as CUstream, CUevent, ... They are indices with a kind and a generation, never
// addresses, so a stale or foreign value is recognised on both sides.
#pragma once

#include <cstdint>

#include "base/limits.h"

namespace bf {

enum class HandleKind : uint8_t {
  kNone = 0,
  kContext,
  kStream,
  kEvent,
  kModule,
  kLibrary,
  kFunction,
  kKernel,
  kArray,
  kMipmappedArray,
  kTexRef,
  kSurfRef,
  kGraph,
  kGraphNode,
  kGraphExec,
  kMemoryPool,
  kUserObject,
  kExternalMemory,
  kExternalSemaphore,
  kGraphicsResource,
  kLinkState,
  kGreenContext,
  kDevResourceDesc,
  kMemAllocation,  // CUmemGenericAllocationHandle
  kAsyncCallback,
  kLogsCallback,
  kCoredumpCallback,
  kGraphDeviceNode,
  kTileKernel,
  kCount,
};

enum class HandleMaker : uint8_t { kClient = 0, kWorker = 1 };

// kind(6) at bit 41 | maker(1) at bit 40 | generation(16) at bit 24 | index(24) at bit 0.
struct Handle {
  HandleKind kind = HandleKind::kNone;
  HandleMaker maker = HandleMaker::kClient;
  uint16_t generation = 0;
  uint32_t index = 0;  // < 2^24

  constexpr uint64_t pack() const {
    return (uint64_t(kind) << 41) | (uint64_t(maker) << 40) | (uint64_t(generation) << 24) | index;
  }
  // Never fails: a value that no table holds simply is not found there.
  static constexpr Handle unpack(uint64_t value) {
    return {HandleKind((value >> 41) & 63), HandleMaker((value >> 40) & 1), uint16_t(value >> 24),
            uint32_t(value & ((1u << limits::kHandleIndexBits) - 1))};
  }
  // True if `value` could be a handle at all (streams NULL, 1, 2 and addresses are not).
  static constexpr bool plausible(uint64_t value) {
    return value >> 47 == 0 && unpack(value).kind != HandleKind::kNone && unpack(value).kind < HandleKind::kCount;
  }
};

}  // namespace bf
