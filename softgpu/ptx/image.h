// Insides of Module and Image that linking and launching share.
#pragma once

#include <cstdlib>
#include <memory>

#include "softgpu/ptx/program.h"

namespace bf::ptx {

struct FreeDeleter {
  void operator()(uint8_t* p) const { free(p); }
};

struct Image::State {
  std::unique_ptr<uint8_t, FreeDeleter> pool;  // the constants, with addresses filled in; 64-byte aligned
};

struct LaunchAccess {
  static const Program& program(const Image& image) { return *image.module_->program_; }
  static uint8_t* pool(const Image& image) { return image.state_->pool.get(); }
};

// What an activation takes from a thread's stack, so that endless recursion ends even without local variables.
inline uint64_t frame_cost(uint32_t local_bytes) { return (uint64_t(local_bytes) + 31) & ~uint64_t{15}; }

}  // namespace bf::ptx
