// Texture and surface objects: what `tex`, `tld4`, `suld` and `sust` see.
#pragma once

#include "softgpu/driver/cuda_api.h"
#include "softgpu/ptx/ptx.h"

namespace bf::softgpu {

// False: no such object, or one of another shape.
bool sample_texture(const ptx::TextureRequest& request, uint32_t (&texel)[4]);
bool access_surface(const ptx::SurfaceRequest& request, void* data, bool write);
uint32_t texture_extent(uint64_t object, int axis);

}  // namespace bf::softgpu
