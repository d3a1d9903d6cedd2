#include <algorithm>

#include "softgpu/driver/driver.h"
#include "softgpu/driver/launch.h"

namespace bf::softgpu {

BF_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction handle, int block_size,
                                                                     size_t dynamic_shared, unsigned int flags) {
  BF_ENTER();
  if (!blocks || block_size <= 0 || flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE) return CUDA_ERROR_INVALID_VALUE;
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  *blocks = occupancy(*function, block_size, dynamic_shared);
  return CUDA_SUCCESS;
}

BF_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle, int block_size,
                                                            size_t dynamic_shared) {
  BF_ENTER();
  return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, handle, block_size, dynamic_shared, 0);
}

BF_API CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid_size, int* block_size, CUfunction handle,
                                                          CUoccupancyB2DSize shared_of, size_t dynamic_shared,
                                                          int limit, unsigned int flags) {
  BF_ENTER();
  if (!grid_size || !block_size || limit < 0 || flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE)
    return CUDA_ERROR_INVALID_VALUE;
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  int largest = int(function->info->max_threads);
  if (limit > 0) largest = std::min(largest, limit);
  int best_threads = 0, best_block = 0, best_blocks = 0;
  // Largest first, so that among equals the largest block wins.
  for (int aligned = (largest + 31) / 32 * 32; aligned > 0; aligned -= 32) {
    int size = std::min(aligned, largest);
    int blocks = occupancy(*function, size, shared_of ? shared_of(size) : dynamic_shared);
    if (blocks * size <= best_threads) continue;
    best_threads = blocks * size;
    best_block = size;
    best_blocks = blocks;
    if (best_threads == kThreadsPerMultiprocessor) break;
  }
  *block_size = best_block;
  *grid_size = best_blocks * kMultiprocessors;
  return CUDA_SUCCESS;
}

BF_API CUresult cuOccupancyMaxPotentialBlockSize(int* grid_size, int* block_size, CUfunction handle,
                                                 CUoccupancyB2DSize shared_of, size_t dynamic_shared, int limit) {
  BF_ENTER();
  return cuOccupancyMaxPotentialBlockSizeWithFlags(grid_size, block_size, handle, shared_of, dynamic_shared, limit, 0);
}

BF_API CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, CUfunction handle, int blocks, int block_size) {
  BF_ENTER();
  if (!bytes || blocks <= 0 || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  if (occupancy(*function, block_size, 0) < blocks) return CUDA_ERROR_INVALID_VALUE;
  int64_t share = kSharedPerMultiprocessor / blocks / 128 * 128 - kSharedReserved;
  share = std::min<int64_t>(share, kSharedPerBlockOptin) - function->info->static_shared_bytes;
  *bytes = std::max<int64_t>(share, 0);
  return CUDA_SUCCESS;
}

BF_API CUresult cuOccupancyMaxPotentialClusterSize(int*, CUfunction handle, const CUlaunchConfig*) {
  BF_ENTER();
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  return CUDA_ERROR_NOT_SUPPORTED;  // devices of this generation have no clusters
}

BF_API CUresult cuOccupancyMaxActiveClusters(int*, CUfunction handle, const CUlaunchConfig*) {
  BF_ENTER();
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace bf::softgpu
