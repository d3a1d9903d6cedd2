// What generated weak exports of the software GPU need (api/softgpu_exports.cc).
#pragma once

#include "proto/api/cuda_api.h"

namespace bf::softgpu {

// True while this thread is inside the `_ptds`/`_ptsz` twin of a function without a stream parameter: its default
// stream is then the per-thread one. Defined in proto/api/softgpu_support.cc.
extern constinit thread_local bool t_per_thread;

class PerThreadScope {
 public:
  PerThreadScope() noexcept { t_per_thread = true; }
  ~PerThreadScope() { t_per_thread = false; }
  PerThreadScope(const PerThreadScope&) = delete;
  PerThreadScope& operator=(const PerThreadScope&) = delete;
};

inline CUstream per_thread_stream(CUstream stream) { return stream ? stream : CU_STREAM_PER_THREAD; }

// Logs the name at debug level; CUDA_ERROR_NOT_SUPPORTED.
CUresult refused(const char* symbol);

}  // namespace bf::softgpu
