// What a stream can be told to do and a graph node can hold: one list for both.
#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "softgpu/driver/context.h"

namespace bf::softgpu {

struct Stream;
struct Event;
struct Graph;
struct Array;
struct Function;
using StreamRef = std::shared_ptr<Stream>;

struct KernelWork {
  std::shared_ptr<Function> function;
  ptx::Grid grid;
  std::vector<uint8_t> arguments;  // as laid out by KernelInfo::params
  std::vector<CUlaunchAttribute> attributes;
};

// One end of a copy.
struct CopySide {
  uint8_t* base = nullptr;  // of the whole volume; host and device memory alike
  size_t x_bytes = 0, y = 0, z = 0;
  size_t pitch = 0, height = 0;
  std::shared_ptr<Array> array;  // keeps it alive
  uint8_t* row(size_t row_y, size_t slice_z) const {
    return base + x_bytes + (y + row_y + (z + slice_z) * height) * pitch;
  }
};

struct CopyWork {
  CopySide source, destination;
  size_t width_bytes = 0, height = 1, depth = 1;
  CUDA_MEMCPY3D description{};                   // as the program said it, for graph nodes
  std::shared_ptr<std::vector<uint8_t>> staged;  // source bytes taken from pageable memory before the call returned
  uint64_t bytes() const { return uint64_t(width_bytes) * height * depth; }
};

struct MemsetWork {
  CUDA_MEMSET_NODE_PARAMS params{};
};

struct HostWork {
  CUhostFn function = nullptr;
  void* user_data = nullptr;
};

// cuStreamAddCallback; unlike a host function it also runs after a fault.
struct CallbackWork {
  CUstreamCallback function = nullptr;
  CUstream stream = nullptr;
  void* user_data = nullptr;
};

struct MemoryOpWork {
  std::vector<CUstreamBatchMemOpParams> operations;
  uint32_t flags = 0;
};

struct EmptyWork {};
struct EventRecordWork {
  std::shared_ptr<Event> event;
};
struct EventWaitWork {
  std::shared_ptr<Event> event;
};
struct ChildWork {
  std::shared_ptr<Graph> graph;
};
struct AllocWork {
  CUDA_MEM_ALLOC_NODE_PARAMS params{};
  std::vector<CUmemAccessDesc> access;
};
struct FreeWork {
  CUdeviceptr address = 0;
};

using Work = std::variant<KernelWork, CopyWork, MemsetWork, HostWork, CallbackWork, MemoryOpWork, EmptyWork,
                          EventRecordWork, EventWaitWork, ChildWork, AllocWork, FreeWork>;

// Does it, on the calling thread. A fault goes into the context; after one, only callbacks still run.
void run_work(Context& context, const Work& work);
void run_kernel(Context& context, const KernelWork& work);
void run_copy(Context& context, const CopyWork& work);

}  // namespace bf::softgpu
