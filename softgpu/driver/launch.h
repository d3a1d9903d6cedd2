// Launching kernels.
#pragma once

#include "softgpu/driver/module.h"
#include "softgpu/driver/work.h"

namespace bf::softgpu {

struct LaunchShape {
  ptx::Dim3 grid, block;
  uint32_t dynamic_shared_bytes = 0;
  bool cooperative = false;
};

// Resident blocks of the function on one multiprocessor; 0: the block does not fit.
int occupancy(const Function& function, uint64_t block_threads, uint64_t dynamic_shared_bytes);
// Everything the driver checks at the call.
CUresult check_launch(const Function& function, const LaunchShape& shape);
// Copies the arguments into the layout of the kernel.
CUresult pack_arguments(const Function& function, void** parameters, void** extra, std::vector<uint8_t>* arguments);
// All of the above, for launches and graph nodes.
CUresult make_kernel_work(FunctionRef function, const LaunchShape& shape, void** parameters, void** extra,
                          KernelWork* work);

}  // namespace bf::softgpu
