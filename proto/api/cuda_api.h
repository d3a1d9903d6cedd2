// cuda.h with every symbol the driver exports: also old versions and the per-thread-default-stream twins, each under
// its own name (no macro renames cuMemAlloc to cuMemAlloc_v2 behind our back). Include this, never <cuda.h>.
// Declarations get default visibility, so that a definition of a driver symbol is exported.
#pragma once

#ifdef __cuda_cuda_h__
#error "include proto/api/cuda_api.h instead of <cuda.h>"
#endif
#define __CUDA_API_VERSION_INTERNAL
#pragma GCC visibility push(default)
#include <cuda.h>
#include <cudaProfiler.h>
#pragma GCC visibility pop
