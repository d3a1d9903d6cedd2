// Virtual memory management: physical memory is a memfd, so that it can be mapped anywhere, several times, and
// exported.
#pragma once

#include "base/fd.h"
#include "softgpu/driver/context.h"

namespace bf::softgpu {

struct PhysicalMemory {
  CUmemGenericAllocationHandle handle = 0;
  CUmemAllocationProp properties{};
  uint64_t bytes = 0;
  int device = -1;  // that is charged; -1: imported
  Fd fd;
  ~PhysicalMemory();
};

}  // namespace bf::softgpu
