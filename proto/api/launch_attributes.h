// Launch attributes as handlers get them: the bytes of a CUlaunchAttribute array.
#pragma once

#include <span>

#include "api/struct_handles.h"

namespace bf::server {

// Points config.attrs at a translated copy in the arena. Not 0: refuse the call with it.
inline CUresult take_launch_attributes(Call& call, std::span<const std::byte> bytes, CUlaunchConfig& config) {
  CUlaunchAttribute* attrs = nullptr;
  if (!bytes.empty() && !decode_array(call, bytes, config.numAttrs, attrs)) return CUDA_ERROR_INVALID_VALUE;
  config.attrs = attrs;
  if (!attrs) config.numAttrs = 0;
  return structs_to_real(call, attrs, config.numAttrs);
}

}  // namespace bf::server
