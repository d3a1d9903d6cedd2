// Occupancy: asked of the worker once per question, then answered from the function's cache.
#include <algorithm>

#include "api/remote.h"
#include "client/contexts.h"
#include "client/functions.h"

namespace bf::client {

namespace {

constexpr size_t kCachedAnswers = 64;  // per function: block sizes times shared memory sizes that one program tries

}  // namespace

CUresult occupancy(int* blocks, CUfunction f, int threads, size_t dynamic_bytes, unsigned flags) {
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  Function* function = launched(f);
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  // The answer depends on what the program may change in the function, too.
  Function::Occupancy question{threads, dynamic_bytes, flags,
                               function->attribute(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, context->device),
                               function->attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, context->device), current_as_set(), 0};
  {
    std::lock_guard guard(function->lock);
    for (const Function::Occupancy& known : function->occupancies) {
      if (!known.same_question(question)) continue;
      *blocks = known.blocks;
      return CUDA_SUCCESS;
    }
  }
  CUresult result = remote_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&question.blocks, f, threads, dynamic_bytes, flags);
  if (result != CUDA_SUCCESS) return result;
  *blocks = question.blocks;
  std::lock_guard guard(function->lock);
  if (function->occupancies.size() >= kCachedAnswers) function->occupancies.erase(function->occupancies.begin());
  function->occupancies.push_back(question);
  return CUDA_SUCCESS;
}

CUresult handle_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* numBlocks, CUfunction func, int blockSize,
                                                                     size_t dynamicSMemSize, unsigned int flags) noexcept {
  if (!numBlocks) return CUDA_ERROR_INVALID_VALUE;
  return occupancy(numBlocks, func, blockSize, dynamicSMemSize, flags);
}

CUresult handle_cuOccupancyMaxActiveBlocksPerMultiprocessor(int* numBlocks, CUfunction func, int blockSize,
                                                            size_t dynamicSMemSize) noexcept {
  return handle_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks, func, blockSize, dynamicSMemSize, 0);
}

// The largest block size, in steps of a warp, that keeps the most threads on a multiprocessor.
CUresult handle_cuOccupancyMaxPotentialBlockSizeWithFlags(int* minGridSize, int* blockSize, CUfunction func,
                                                          CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                          size_t dynamicSMemSize, int blockSizeLimit,
                                                          unsigned int flags) noexcept {
  if (!minGridSize || !blockSize) return CUDA_ERROR_INVALID_VALUE;
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  Function* function = launched(func);
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  const int device = context->device;
  const int warp = device_attribute(device, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
  const int per_processor = device_attribute(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
  int limit = std::min(device_attribute(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK),
                       function->attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, device));
  if (blockSizeLimit > 0) limit = std::min(limit, blockSizeLimit);
  int best_threads = 0, best_block = 0, best_blocks = 0;
  for (int aligned = (limit + warp - 1) / warp * warp; aligned > 0 && best_threads < per_processor; aligned -= warp) {
    const int threads = std::min(aligned, limit);
    const size_t dynamic_bytes = blockSizeToDynamicSMemSize ? blockSizeToDynamicSMemSize(threads) : dynamicSMemSize;
    int blocks = 0;
    CUresult result = occupancy(&blocks, func, threads, dynamic_bytes, flags);
    if (result != CUDA_SUCCESS) return result;
    if (blocks * threads <= best_threads) continue;
    best_threads = blocks * threads;
    best_block = threads;
    best_blocks = blocks;
  }
  *blockSize = best_block;
  *minGridSize = best_blocks * device_attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  return CUDA_SUCCESS;
}

CUresult handle_cuOccupancyMaxPotentialBlockSize(int* minGridSize, int* blockSize, CUfunction func,
                                                 CUoccupancyB2DSize blockSizeToDynamicSMemSize, size_t dynamicSMemSize,
                                                 int blockSizeLimit) noexcept {
  return handle_cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize, blockSize, func, blockSizeToDynamicSMemSize,
                                                          dynamicSMemSize, blockSizeLimit, 0);
}

}  // namespace bf::client
