#include "softgpu/driver/array.h"

#include <algorithm>
#include <cstring>

#include "softgpu/driver/driver.h"

namespace bf::softgpu {

ArrayRegistry& arrays() {
  static ArrayRegistry* registry = new ArrayRegistry;
  return *registry;
}
MipmappedArrayRegistry& mipmapped_arrays() {
  static MipmappedArrayRegistry* registry = new MipmappedArrayRegistry;
  return *registry;
}

uint32_t format_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
      return 4;
    default:
      return 0;
  }
}

uint32_t Array::texel_bytes() const { return format_bytes(descriptor.Format) * descriptor.NumChannels; }

namespace {

constexpr uint32_t kFlags = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST | CUDA_ARRAY3D_CUBEMAP |
                            CUDA_ARRAY3D_TEXTURE_GATHER | CUDA_ARRAY3D_COLOR_ATTACHMENT;

CUresult check_descriptor(const CUDA_ARRAY3D_DESCRIPTOR& d) {
  if (!format_bytes(d.Format)) return CUDA_ERROR_INVALID_VALUE;
  if (d.NumChannels != 1 && d.NumChannels != 2 && d.NumChannels != 4) return CUDA_ERROR_INVALID_VALUE;
  if (d.Width == 0 || d.Width > 131072 || d.Height > 131072 || d.Depth > 16384) return CUDA_ERROR_INVALID_VALUE;
  if (d.Flags & ~kFlags) return CUDA_ERROR_INVALID_VALUE;
  if ((d.Flags & CUDA_ARRAY3D_LAYERED) && d.Depth == 0) return CUDA_ERROR_INVALID_VALUE;
  if ((d.Flags & CUDA_ARRAY3D_CUBEMAP) && (d.Width != d.Height || d.Depth == 0 || d.Depth % 6))
    return CUDA_ERROR_INVALID_VALUE;
  if (!(d.Flags & CUDA_ARRAY3D_LAYERED) && d.Depth && !d.Height) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUresult find_array(CUarray handle, ArrayRef* array) {
  *array = arrays().find(handle);
  return *array ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace

BF_API CUresult cuArray3DCreate_v2(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR* descriptor) {
  BF_ENTER();
  if (!out || !descriptor) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  BF_TRY(check_not_capturing());
  BF_TRY(check_descriptor(*descriptor));
  auto array = std::make_shared<Array>();
  array->context_id = context->id;
  array->device = context->device->ordinal;
  array->descriptor = *descriptor;
  array->storage = allocate_memory(*context, array->bytes(), MemoryKind::kArray);
  if (!array->storage) return CUDA_ERROR_OUT_OF_MEMORY;
  array->base = array->storage->begin;
  *out = arrays().add(std::move(array));
  return CUDA_SUCCESS;
}

BF_API CUresult cuArrayCreate_v2(CUarray* out, const CUDA_ARRAY_DESCRIPTOR* descriptor) {
  BF_ENTER();
  if (!descriptor) return CUDA_ERROR_INVALID_VALUE;
  CUDA_ARRAY3D_DESCRIPTOR full{};
  full.Width = descriptor->Width;
  full.Height = descriptor->Height;
  full.Format = descriptor->Format;
  full.NumChannels = descriptor->NumChannels;
  return cuArray3DCreate_v2(out, &full);
}

BF_API CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR* descriptor, CUarray handle) {
  BF_ENTER();
  if (!descriptor) return CUDA_ERROR_INVALID_VALUE;
  ArrayRef array;
  BF_TRY(find_array(handle, &array));
  *descriptor = array->descriptor;
  return CUDA_SUCCESS;
}

BF_API CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR* descriptor, CUarray handle) {
  BF_ENTER();
  if (!descriptor) return CUDA_ERROR_INVALID_VALUE;
  ArrayRef array;
  BF_TRY(find_array(handle, &array));
  descriptor->Width = array->descriptor.Width;
  descriptor->Height = array->descriptor.Height;
  descriptor->Format = array->descriptor.Format;
  descriptor->NumChannels = array->descriptor.NumChannels;
  return CUDA_SUCCESS;
}

BF_API CUresult cuArrayDestroy(CUarray handle) {
  BF_ENTER();
  ArrayRef array;
  BF_TRY(find_array(handle, &array));
  if (array->level) return CUDA_ERROR_INVALID_HANDLE;
  ContextRef context;
  BF_TRY(current_context(&context));
  synchronize(*context);
  if (!arrays().remove(handle)) return CUDA_ERROR_INVALID_HANDLE;
  if (AddressSpace::instance().remove(array->base, [](const Allocation&) { return true; }))
    release_memory(*array->storage);
  return CUDA_SUCCESS;
}

BF_API CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS* requirements, CUarray handle,
                                             CUdevice dev) {
  BF_ENTER();
  if (!requirements) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  ArrayRef array;
  BF_TRY(find_array(handle, &array));
  memset(requirements, 0, sizeof *requirements);
  requirements->size = array->bytes();
  requirements->alignment = kGranule;
  return CUDA_SUCCESS;
}

// ----------------------------------------------------------------------------------------------------- mipmapped
// arrays

BF_API CUresult cuMipmappedArrayCreate(CUmipmappedArray* out, const CUDA_ARRAY3D_DESCRIPTOR* descriptor,
                                       unsigned int levels) {
  BF_ENTER();
  if (!out || !descriptor || levels == 0) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  BF_TRY(check_descriptor(*descriptor));
  auto mipmap = std::make_shared<MipmappedArray>();
  std::vector<ArrayRef> made;
  uint64_t bytes = 0;
  CUDA_ARRAY3D_DESCRIPTOR level = *descriptor;
  bool layered = descriptor->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP);
  for (unsigned i = 0; i < levels; i++) {
    auto array = std::make_shared<Array>();
    array->context_id = context->id;
    array->device = context->device->ordinal;
    array->descriptor = level;
    array->level = true;
    array->base = bytes;
    bytes += (array->bytes() + kGranule - 1) / kGranule * kGranule;
    made.push_back(std::move(array));
    if (level.Width <= 1 && level.Height <= 1 && (layered || level.Depth <= 1)) break;
    level.Width = std::max<size_t>(level.Width / 2, 1);
    if (level.Height) level.Height = std::max<size_t>(level.Height / 2, 1);
    if (level.Depth && !layered) level.Depth = std::max<size_t>(level.Depth / 2, 1);
  }
  mipmap->storage = allocate_memory(*context, bytes, MemoryKind::kArray);
  if (!mipmap->storage) return CUDA_ERROR_OUT_OF_MEMORY;
  for (ArrayRef& array : made) {
    array->storage = mipmap->storage;
    array->base += mipmap->storage->begin;
    mipmap->levels.push_back(arrays().add(array));
  }
  *out = mipmapped_arrays().add(std::move(mipmap));
  return CUDA_SUCCESS;
}

BF_API CUresult cuMipmappedArrayGetLevel(CUarray* out, CUmipmappedArray handle, unsigned int level) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  auto mipmap = mipmapped_arrays().find(handle);
  if (!mipmap) return CUDA_ERROR_INVALID_HANDLE;
  if (level >= mipmap->levels.size()) return CUDA_ERROR_INVALID_VALUE;
  *out = mipmap->levels[level];
  return CUDA_SUCCESS;
}

BF_API CUresult cuMipmappedArrayDestroy(CUmipmappedArray handle) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  synchronize(*context);
  auto mipmap = mipmapped_arrays().remove(handle);
  if (!mipmap) return CUDA_ERROR_INVALID_HANDLE;
  for (CUarray level : mipmap->levels) arrays().remove(level);
  if (AddressSpace::instance().remove(mipmap->storage->begin, [](const Allocation&) { return true; }))
    release_memory(*mipmap->storage);
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
