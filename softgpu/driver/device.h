// The devices of this process: how many, how large, what they answer. Fixed by cuInit from the environment:
//   BF_SOFTGPU_COUNT       devices of the machine (default 1, at most 16)
//   BF_SOFTGPU_MEMORY_MIB  memory of each in MiB (default 16384)
//   BF_SOFTGPU_FAULTS      "oom-after=BYTES;sticky-after-launches=N;slow-copy-us-per-mib=N;lost-after-calls=N"
//   CUDA_VISIBLE_DEVICES   as for any CUDA driver: indices or UUIDs; the first invalid entry ends the list
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "softgpu/driver/memory.h"

namespace bf::softgpu {

inline constexpr uint64_t kContextBytes = 8 << 20;  // what one context costs
inline constexpr int kDriverVersion = 13000;
inline constexpr int kMaxThreadsPerBlock = 1024;
inline constexpr int kMultiprocessors = 108;
inline constexpr int kSharedPerBlock = 48 << 10;        // without opting in
inline constexpr int kSharedPerBlockOptin = 163 << 10;  // with CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
inline constexpr int kSharedPerMultiprocessor = 164 << 10;
inline constexpr int kSharedReserved = 1 << 10;
inline constexpr int kThreadsPerMultiprocessor = 2048;
inline constexpr int kBlocksPerMultiprocessor = 32;
inline constexpr int kRegisters = 65536;

struct Faults {
  uint64_t oom_after_bytes = UINT64_MAX;
  uint64_t sticky_after_launches = UINT64_MAX;
  uint64_t slow_copy_us_per_mib = 0;
  uint64_t lost_after_calls = UINT64_MAX;
};

struct Context;
struct MemoryPool;

struct Device {
  Device(int ordinal, int physical, uint64_t memory_bytes, uint64_t limit_bytes)
      : ordinal(ordinal), physical(physical), memory(physical, memory_bytes, limit_bytes) {}
  const int ordinal;   // as the program counts
  const int physical;  // as the machine counts: identity (UUID, PCI) comes from it
  DeviceMemory memory;
  std::shared_ptr<Context> primary;
  std::shared_ptr<MemoryPool> default_pool;
  std::shared_ptr<MemoryPool> current_pool;  // guarded by pool_mutex
  std::mutex pool_mutex;
  std::atomic<uint64_t> launches{0};

  CUuuid uuid() const;
  int pci_bus() const { return 0x10 + physical; }
};

// Reads the environment and makes the devices. Called once, by cuInit.
void initialise_devices();
// CUDA_VISIBLE_DEVICES names one of them twice: then there are none, and cuInit fails.
bool device_named_twice();
int device_count();
// nullptr: no such ordinal, or not initialised.
Device* device_at(int ordinal);
const Faults& faults();

}  // namespace bf::softgpu
