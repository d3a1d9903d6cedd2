// Copies and sets: every form the API has becomes one CopyWork or MemsetWork.
#pragma once

#include "softgpu/driver/work.h"

namespace bf::softgpu {

// Checks a description and resolves its two ends. `host_source`/`host_destination` say whether that end is pageable.
struct ResolvedCopy {
  CopyWork work;
  bool pageable_source = false, pageable_destination = false;
};
CUresult resolve_copy(const CUDA_MEMCPY3D& description, ResolvedCopy* copy);
CUresult check_memset(const CUDA_MEMSET_NODE_PARAMS& params);

}  // namespace bf::softgpu
