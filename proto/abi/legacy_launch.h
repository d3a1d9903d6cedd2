// The launch interface from before CUDA 4.0: a function remembers block shape, shared memory and parameters, and a launch
// uses what was last set. What the shim and the software GPU have in common of it.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "proto/api/cuda_api.h"

namespace bf::abi {

class LegacyLaunch {
 public:
  static constexpr size_t kParameterBytes = 32764;  // the most that any GPU takes

  // `max_threads`: of the function. INVALID_VALUE for what no launch could use (580.159.04).
  CUresult set_block(int x, int y, int z, int max_threads) {
    if (x <= 0 || y <= 0 || z <= 0) return CUDA_ERROR_INVALID_VALUE;
    if (size_t(x) * size_t(y) * size_t(z) > size_t(max_threads)) return CUDA_ERROR_INVALID_VALUE;
    block_[0] = unsigned(x), block_[1] = unsigned(y), block_[2] = unsigned(z);
    return CUDA_SUCCESS;
  }
  CUresult set_shared(unsigned bytes, size_t most) {
    if (bytes > most) return CUDA_ERROR_INVALID_VALUE;
    shared_ = bytes;
    return CUDA_SUCCESS;
  }
  CUresult set_size(unsigned bytes) {
    if (bytes > kParameterBytes) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > parameters_.size()) parameters_.resize(bytes);
    return CUDA_SUCCESS;
  }
  CUresult set(int offset, const void* value, size_t bytes) {
    if (!value || offset < 0 || size_t(offset) > kParameterBytes || bytes > kParameterBytes - size_t(offset)) return CUDA_ERROR_INVALID_VALUE;
    if (size_t(offset) + bytes > parameters_.size()) parameters_.resize(size_t(offset) + bytes);
    if (bytes > 0) std::memcpy(parameters_.data() + offset, value, bytes);
    return CUDA_SUCCESS;
  }
  // Launches by `launch`, a cuLaunchKernel; parameters that were never set are zero.
  template <typename Launch>
  CUresult run(Launch launch, CUfunction function, int width, int height, CUstream stream, size_t parameter_bytes) {
    if (width <= 0 || height <= 0) return CUDA_ERROR_INVALID_VALUE;
    if (parameter_bytes > parameters_.size()) parameters_.resize(parameter_bytes);
    size_t bytes = parameters_.size();
    void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, parameters_.data(), CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
    return launch(function, unsigned(width), unsigned(height), 1, block_[0], block_[1], block_[2], shared_, stream, nullptr,
                  bytes > 0 ? extra : nullptr);
  }

 private:
  unsigned block_[3] = {1, 1, 1};
  unsigned shared_ = 0;
  std::vector<std::byte> parameters_;
};

}  // namespace bf::abi
