#include "proto/api/softgpu_support.h"

#include "base/log.h"

namespace bf::softgpu {

constinit thread_local bool t_per_thread = false;

CUresult refused(const char* symbol) {
  BF_DEBUG("software GPU: {} is not implemented", symbol);
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace bf::softgpu
