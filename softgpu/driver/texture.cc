// Sampling after the CUDA programming guide's appendix "Texture Fetching": linear filtering uses 9-bit fixed point
// weights with 8 bits of fraction, integers are normalised unless read as integers.
#include "softgpu/driver/texture.h"

#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "softgpu/driver/array.h"
#include "softgpu/driver/driver.h"

namespace bf::softgpu {
namespace {

// The texels behind an object: one volume, layers as slices.
struct Volume {
  uint64_t base = 0;
  size_t width = 0, height = 1, depth = 1, pitch = 0, slice = 0;
  CUarray_format format = CU_AD_FORMAT_FLOAT;
  uint32_t channels = 1;
  uint32_t texel_bytes() const { return format_bytes(format) * channels; }
};

struct Texture {
  uint64_t handle = 0;
  CUDA_RESOURCE_DESC resource{};
  CUDA_TEXTURE_DESC description{};
  CUDA_RESOURCE_VIEW_DESC view{};
  bool has_view = false;
  std::vector<Volume> levels;
  ArrayRef array;
  AllocationRef memory;  // the texels
  bool usable() const { return !memory->gone; }
};
using TextureRegistry = Registry<uint64_t, Texture, ObjectKind::kTexture>;
using SurfaceRegistry = Registry<uint64_t, Texture, ObjectKind::kSurface>;

TextureRegistry& textures() {
  static TextureRegistry* registry = new TextureRegistry;
  return *registry;
}
SurfaceRegistry& surfaces() {
  static SurfaceRegistry* registry = new SurfaceRegistry;
  return *registry;
}

Volume volume_of(const Array& array) {
  Volume volume{array.base,
                array.descriptor.Width,
                array.rows(),
                array.slices(),
                array.pitch(),
                0,
                array.descriptor.Format,
                array.descriptor.NumChannels};
  volume.slice = volume.pitch * volume.height;
  return volume;
}

CUresult resolve(const CUDA_RESOURCE_DESC& resource, Texture* texture) {
  texture->resource = resource;
  switch (resource.resType) {
    case CU_RESOURCE_TYPE_ARRAY: {
      texture->array = arrays().find(resource.res.array.hArray);
      if (!texture->array) return CUDA_ERROR_INVALID_VALUE;
      texture->memory = texture->array->storage;
      texture->levels.push_back(volume_of(*texture->array));
      return CUDA_SUCCESS;
    }
    case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY: {
      auto mipmap = mipmapped_arrays().find(resource.res.mipmap.hMipmappedArray);
      if (!mipmap) return CUDA_ERROR_INVALID_HANDLE;
      texture->memory = mipmap->storage;
      for (CUarray level : mipmap->levels)
        if (ArrayRef array = arrays().find(level)) texture->levels.push_back(volume_of(*array));
      return texture->levels.empty() ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
    }
    case CU_RESOURCE_TYPE_LINEAR: {
      const auto& linear = resource.res.linear;
      Volume volume{linear.devPtr, 0, 1, 1, linear.sizeInBytes, linear.sizeInBytes, linear.format, linear.numChannels};
      if (!format_bytes(linear.format) || !linear.numChannels || linear.numChannels > 4 || linear.devPtr % kGranule)
        return CUDA_ERROR_INVALID_VALUE;
      volume.width = linear.sizeInBytes / volume.texel_bytes();
      texture->levels.push_back(volume);
      break;
    }
    case CU_RESOURCE_TYPE_PITCH2D: {
      const auto& pitched = resource.res.pitch2D;
      if (!format_bytes(pitched.format) || !pitched.numChannels || pitched.numChannels > 4)
        return CUDA_ERROR_INVALID_VALUE;
      Volume volume{pitched.devPtr, pitched.width,      pitched.height, 1, pitched.pitchInBytes, 0,
                    pitched.format, pitched.numChannels};
      if (volume.pitch % 32 || volume.width * volume.texel_bytes() > volume.pitch) return CUDA_ERROR_INVALID_VALUE;
      texture->levels.push_back(volume);
      break;
    }
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  const Volume& volume = texture->levels[0];
  const AllocationRef& memory = texture->memory = AddressSpace::instance().find(volume.base);
  bool inside =
      memory && volume.base + volume.pitch * (volume.height - 1) + volume.width * volume.texel_bytes() <= memory->end();
  return inside && volume.width && volume.height ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

[[gnu::target("f16c")]] float half_to_float(uint16_t bits) { return _cvtsh_ss(bits); }

// One texel as four floats, or four integers as they are.
struct Texel {
  float f[4] = {0, 0, 0, 0};
  uint32_t i[4] = {0, 0, 0, 0};
};

Texel load(const Volume& volume, size_t x, size_t y, size_t z, bool normalised) {
  Texel texel;
  uint64_t at = volume.base + z * volume.slice + y * volume.pitch + x * volume.texel_bytes();
  for (uint32_t c = 0; c < volume.channels; c++) {
    uint64_t address = at + c * format_bytes(volume.format);
    switch (volume.format) {
      case CU_AD_FORMAT_UNSIGNED_INT8:
        texel.i[c] = *(const uint8_t*)address;
        texel.f[c] = normalised ? float(texel.i[c]) / 255.0f : 0;
        break;
      case CU_AD_FORMAT_SIGNED_INT8:
        texel.i[c] = uint32_t(int32_t(*(const int8_t*)address));
        texel.f[c] = normalised ? std::max(float(int32_t(texel.i[c])) / 127.0f, -1.0f) : 0;
        break;
      case CU_AD_FORMAT_UNSIGNED_INT16:
        texel.i[c] = *(const uint16_t*)address;
        texel.f[c] = normalised ? float(texel.i[c]) / 65535.0f : 0;
        break;
      case CU_AD_FORMAT_SIGNED_INT16:
        texel.i[c] = uint32_t(int32_t(*(const int16_t*)address));
        texel.f[c] = normalised ? std::max(float(int32_t(texel.i[c])) / 32767.0f, -1.0f) : 0;
        break;
      case CU_AD_FORMAT_HALF:
        texel.f[c] = half_to_float(*(const uint16_t*)address);
        memcpy(&texel.i[c], &texel.f[c], 4);
        break;
      default:
        memcpy(&texel.i[c], (const void*)address, 4);
        memcpy(&texel.f[c], (const void*)address, 4);
    }
  }
  return texel;
}

class Sampler {
 public:
  Sampler(const Texture& texture, const Volume& volume, const ptx::TextureRequest& request)
      : texture_(texture), volume_(volume), request_(request) {
    using ptx::Geometry;
    Geometry g = request.geometry;
    layered_ = g == Geometry::k1DLayered || g == Geometry::k2DLayered;
    dimensions_ = g == Geometry::k1D || g == Geometry::k1DLayered ? 1 : g == Geometry::k3D ? 3 : 2;
    bool floating = volume.format == CU_AD_FORMAT_FLOAT || volume.format == CU_AD_FORMAT_HALF;
    bool wide = format_bytes(volume.format) == 4 && !floating;
    normalised_values_ = !floating && !wide && !(texture.description.flags & CU_TRSF_READ_AS_INTEGER);
    integers_ = !floating && !normalised_values_;
    normalised_coordinates_ = texture.description.flags & CU_TRSF_NORMALIZED_COORDINATES;
    linear_resource_ = texture.resource.resType == CU_RESOURCE_TYPE_LINEAR;
  }

  void sample(uint32_t (&out)[4]) const {
    Texel result;
    if (request_.integer_coordinates || linear_resource_) {
      int64_t index[3];
      for (int axis = 0; axis < 3; axis++)
        index[axis] =
            request_.integer_coordinates ? request_.index[axis] : int64_t(std::floor(request_.coordinate[axis]));
      result = at(index[0], dimensions_ > 1 ? index[1] : 0, dimensions_ > 2 ? index[2] : 0);
    } else if (request_.op == ptx::TextureOp::kGather) {
      return gather(out);
    } else if (texture_.description.filterMode == CU_TR_FILTER_MODE_LINEAR && !integers_) {
      result = filtered();
    } else {
      int64_t index[3] = {0, 0, 0};
      for (int axis = 0; axis < dimensions_; axis++) index[axis] = int64_t(std::floor(scaled(axis)));
      result = at(index[0], index[1], index[2]);
    }
    finish(result, out);
  }

 private:
  size_t extent(int axis) const { return axis == 0 ? volume_.width : axis == 1 ? volume_.height : volume_.depth; }

  float scaled(int axis) const {
    float c = request_.coordinate[axis];
    return normalised_coordinates_ ? c * float(extent(axis)) : c;
  }

  // The texel index after the address mode; -1: outside, with a border.
  int64_t wrap(int axis, int64_t i) const {
    int64_t n = int64_t(extent(axis));
    if (i >= 0 && i < n) return i;
    CUaddress_mode mode = texture_.description.addressMode[axis];
    if (linear_resource_ || request_.integer_coordinates) mode = CU_TR_ADDRESS_MODE_BORDER;
    bool repeats = mode == CU_TR_ADDRESS_MODE_WRAP || mode == CU_TR_ADDRESS_MODE_MIRROR;
    if (repeats && !normalised_coordinates_) mode = CU_TR_ADDRESS_MODE_CLAMP;
    switch (mode) {
      case CU_TR_ADDRESS_MODE_WRAP:
        return ((i % n) + n) % n;
      case CU_TR_ADDRESS_MODE_MIRROR: {
        int64_t m = ((i % (2 * n)) + 2 * n) % (2 * n);
        return m < n ? m : 2 * n - 1 - m;
      }
      case CU_TR_ADDRESS_MODE_BORDER:
        return -1;
      default:
        return i < 0 ? 0 : n - 1;
    }
  }

  Texel at(int64_t x, int64_t y, int64_t z) const {
    x = wrap(0, x);
    if (dimensions_ > 1) y = wrap(1, y);
    if (dimensions_ > 2) z = wrap(2, z);
    if (layered_) z = std::min<int64_t>(request_.layer, int64_t(volume_.depth) - 1);
    if (x < 0 || y < 0 || z < 0) {
      Texel border;
      // Fetches by index read zeros outside; sampling reads the border colour.
      for (int c = 0; c < 4 && !request_.integer_coordinates && !linear_resource_; c++) {
        border.f[c] = texture_.description.borderColor[c];
        memcpy(&border.i[c], &border.f[c], 4);
      }
      return border;
    }
    // One-dimensional layered arrays keep their layers as slices of height one.
    return load(volume_, size_t(x), size_t(y), size_t(z), normalised_values_);
  }

  Texel filtered() const {
    int64_t low[3] = {0, 0, 0};
    float fraction[3] = {0, 0, 0};
    for (int axis = 0; axis < dimensions_; axis++) {
      float c = scaled(axis) - 0.5f;
      low[axis] = int64_t(std::floor(c));
      fraction[axis] = std::nearbyint((c - std::floor(c)) * 256.0f) / 256.0f;
    }
    Texel sum;
    for (int corner = 0; corner < (1 << dimensions_); corner++) {
      float weight = 1;
      int64_t index[3];
      for (int axis = 0; axis < 3; axis++) {
        int high = (corner >> axis) & 1;
        index[axis] = low[axis] + high;
        if (axis < dimensions_) weight *= high ? fraction[axis] : 1 - fraction[axis];
      }
      if (weight == 0) continue;
      Texel texel = at(index[0], index[1], index[2]);
      for (int c = 0; c < 4; c++) sum.f[c] += weight * texel.f[c];
    }
    return sum;
  }

  // The component of the four texels that linear filtering would use, counter-clockwise from the lower left.
  void gather(uint32_t (&out)[4]) const {
    int64_t x = int64_t(std::floor(scaled(0) - 0.5f)), y = int64_t(std::floor(scaled(1) - 0.5f));
    const int64_t offsets[4][2] = {{0, 1}, {1, 1}, {1, 0}, {0, 0}};
    for (int i = 0; i < 4; i++) {
      uint32_t one[4];
      finish(at(x + offsets[i][0], y + offsets[i][1], 0), one);
      out[i] = one[request_.component & 3];
    }
  }

  void finish(const Texel& texel, uint32_t (&out)[4]) const {
    for (int c = 0; c < 4; c++) {
      if (integers_)
        out[c] = texel.i[c];
      else
        memcpy(&out[c], &texel.f[c], 4);
    }
  }

  const Texture& texture_;
  const Volume& volume_;
  const ptx::TextureRequest& request_;
  int dimensions_;
  bool layered_, normalised_values_, integers_, normalised_coordinates_, linear_resource_;
};

}  // namespace

bool sample_texture(const ptx::TextureRequest& request, uint32_t (&texel)[4]) {
  auto texture = textures().find(request.texture);
  if (!texture || !texture->usable()) return false;
  if (request.geometry == ptx::Geometry::kCube || request.geometry == ptx::Geometry::kCubeLayered) return false;
  size_t level = 0;
  if (request.op == ptx::TextureOp::kFetchLevel && texture->levels.size() > 1) {
    const CUDA_TEXTURE_DESC& d = texture->description;
    float wanted = request.level;
    if (!request.integer_coordinates)
      wanted = std::clamp(wanted + d.mipmapLevelBias, d.minMipmapLevelClamp, d.maxMipmapLevelClamp);
    level = size_t(std::clamp(std::nearbyint(wanted), 0.0f, float(texture->levels.size() - 1)));
  }
  Sampler(*texture, texture->levels[level], request).sample(texel);
  return true;
}

bool access_surface(const ptx::SurfaceRequest& request, void* data, bool write) {
  auto surface = surfaces().find(request.surface);
  if (!surface || !surface->usable()) return false;
  const Volume& volume = surface->levels[0];
  using ptx::Geometry;
  bool layered = request.geometry == Geometry::k1DLayered || request.geometry == Geometry::k2DLayered;
  bool flat = request.geometry == Geometry::k1D || request.geometry == Geometry::k1DLayered;
  int64_t row = int64_t(volume.width) * volume.texel_bytes();
  int64_t x = request.x_bytes, y = flat ? 0 : request.y;
  int64_t z = layered ? int64_t(request.layer) : request.geometry == Geometry::k3D ? request.z : 0;
  bool inside =
      x >= 0 && x + request.bytes <= row && y >= 0 && y < int64_t(volume.height) && z >= 0 && z < int64_t(volume.depth);
  if (!inside) {
    if (request.clamp == ptx::SurfaceClamp::kTrap) return false;
    if (request.clamp == ptx::SurfaceClamp::kZero) {
      if (!write) memset(data, 0, request.bytes);
      return true;
    }
    x = std::clamp<int64_t>(x, 0, std::max<int64_t>(row - request.bytes, 0));
    y = std::clamp<int64_t>(y, 0, int64_t(volume.height) - 1);
    z = std::clamp<int64_t>(z, 0, int64_t(volume.depth) - 1);
  }
  void* at = (void*)(volume.base + z * volume.slice + y * volume.pitch + x);
  if (write)
    memcpy(at, data, request.bytes);
  else
    memcpy(data, at, request.bytes);
  return true;
}

uint32_t texture_extent(uint64_t object, int axis) {
  std::shared_ptr<Texture> found = textures().find(object);
  if (!found) found = surfaces().find(object);
  if (!found) return 0;
  const Volume& volume = found->levels[0];
  return uint32_t(axis == 0 ? volume.width : axis == 1 ? volume.height : volume.depth);
}

// --------------------------------------------------------------------------------------------------------- entry
// points

BF_API CUresult cuTexObjectCreate(CUtexObject* out, const CUDA_RESOURCE_DESC* resource,
                                  const CUDA_TEXTURE_DESC* description, const CUDA_RESOURCE_VIEW_DESC* view) {
  BF_ENTER();
  if (!out || !resource || !description) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  auto texture = std::make_shared<Texture>();
  BF_TRY(resolve(*resource, texture.get()));
  const Volume& volume = texture->levels[0];
  bool floating = volume.format == CU_AD_FORMAT_FLOAT || volume.format == CU_AD_FORMAT_HALF;
  bool integers = !floating && ((description->flags & CU_TRSF_READ_AS_INTEGER) || format_bytes(volume.format) == 4);
  if (description->filterMode == CU_TR_FILTER_MODE_LINEAR && integers) return CUDA_ERROR_INVALID_VALUE;
  texture->description = *description;
  texture->has_view = view != nullptr;
  if (view) texture->view = *view;
  *out = textures().add(std::move(texture));
  return CUDA_SUCCESS;
}

BF_API CUresult cuTexObjectDestroy(CUtexObject handle) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  textures().remove(handle);
  return CUDA_SUCCESS;
}

BF_API CUresult cuTexObjectGetResourceDesc(CUDA_RESOURCE_DESC* resource, CUtexObject handle) {
  BF_ENTER();
  auto texture = textures().find(handle);
  if (!resource || !texture) return CUDA_ERROR_INVALID_VALUE;
  *resource = texture->resource;
  return CUDA_SUCCESS;
}

BF_API CUresult cuTexObjectGetTextureDesc(CUDA_TEXTURE_DESC* description, CUtexObject handle) {
  BF_ENTER();
  auto texture = textures().find(handle);
  if (!description || !texture) return CUDA_ERROR_INVALID_VALUE;
  *description = texture->description;
  return CUDA_SUCCESS;
}

BF_API CUresult cuTexObjectGetResourceViewDesc(CUDA_RESOURCE_VIEW_DESC* view, CUtexObject handle) {
  BF_ENTER();
  auto texture = textures().find(handle);
  if (!view || !texture || !texture->has_view) return CUDA_ERROR_INVALID_VALUE;
  *view = texture->view;
  return CUDA_SUCCESS;
}

BF_API CUresult cuSurfObjectCreate(CUsurfObject* out, const CUDA_RESOURCE_DESC* resource) {
  BF_ENTER();
  if (!out || !resource || resource->resType != CU_RESOURCE_TYPE_ARRAY) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  auto surface = std::make_shared<Texture>();
  BF_TRY(resolve(*resource, surface.get()));
  *out = surfaces().add(std::move(surface));
  return CUDA_SUCCESS;
}

BF_API CUresult cuSurfObjectDestroy(CUsurfObject handle) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  surfaces().remove(handle);
  return CUDA_SUCCESS;
}

BF_API CUresult cuSurfObjectGetResourceDesc(CUDA_RESOURCE_DESC* resource, CUsurfObject handle) {
  BF_ENTER();
  auto surface = surfaces().find(handle);
  if (!resource || !surface) return CUDA_ERROR_INVALID_VALUE;
  *resource = surface->resource;
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
