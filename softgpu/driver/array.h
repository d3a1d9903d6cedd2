// CUDA arrays: opaque 1D, 2D and 3D volumes, layered or not, stored row by row in device memory.
#pragma once

#include <memory>
#include <vector>

#include "softgpu/driver/context.h"

namespace bf::softgpu {

struct Array {
  CUarray handle = nullptr;
  uint64_t context_id = 0;
  int device = 0;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};  // Height and Depth as the program gave them: 0 for fewer dimensions
  AllocationRef storage;
  uint64_t base = 0;   // of this array (a mipmap level lies inside its storage)
  bool level = false;  // of a mipmapped array, which owns it

  uint32_t texel_bytes() const;
  size_t rows() const { return descriptor.Height ? descriptor.Height : 1; }
  size_t slices() const { return descriptor.Depth ? descriptor.Depth : 1; }
  size_t pitch() const { return descriptor.Width * texel_bytes(); }
  uint64_t bytes() const { return pitch() * rows() * slices(); }
};
using ArrayRef = std::shared_ptr<Array>;

struct MipmappedArray {
  CUmipmappedArray handle = nullptr;
  std::vector<CUarray> levels;
  AllocationRef storage;
};

using ArrayRegistry = Registry<CUarray, Array, ObjectKind::kArray>;
using MipmappedArrayRegistry = Registry<CUmipmappedArray, MipmappedArray, ObjectKind::kMipmappedArray>;
ArrayRegistry& arrays();
MipmappedArrayRegistry& mipmapped_arrays();

uint32_t format_bytes(CUarray_format format);  // of one channel; 0: not supported

}  // namespace bf::softgpu
