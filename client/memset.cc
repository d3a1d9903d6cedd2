// Memory sets: checked against the known ranges, then posted.
#include "api/remote.h"
#include "base/log.h"
#include "client/capture.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

// `rows` rows of `width` elements of `element` bytes, `pitch` bytes apart.
CUresult check(CUdeviceptr dst, size_t element, size_t width, size_t pitch, size_t rows, CUstream stream) {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(stream); result != CUDA_SUCCESS) return result;
  if (dst % element) return CUDA_ERROR_INVALID_VALUE;
  if (width == 0 || rows == 0) return CUDA_SUCCESS;
  if (width > SIZE_MAX / element || (rows > 1 && (pitch < width * element || pitch > SIZE_MAX / rows))) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  size_t extent = (rows - 1) * pitch + width * element;
  if (!state().ranges.covers(dst, extent, Range::Kind::kDevice)) {
    BF_DEBUG("a set of {} bytes at {:#x} is not within known device memory", extent, dst);
    return CUDA_ERROR_INVALID_VALUE;
  }
  return check_legacy(stream);
}

}  // namespace

#define BF_MEMSET(bits, type)                                                                                         \
  CUresult handle_cuMemsetD##bits##_v2(CUdeviceptr dst, type value, size_t n) noexcept {                               \
    if (CUresult result = check(dst, bits / 8, n, 0, 1, nullptr); result != CUDA_SUCCESS || n == 0) return result;     \
    return post_cuMemsetD##bits##_v2(dst, value, n);                                                                  \
  }                                                                                                                   \
  CUresult handle_cuMemsetD##bits##Async(CUdeviceptr dst, type value, size_t n, CUstream stream) noexcept {            \
    if (CUresult result = check(dst, bits / 8, n, 0, 1, stream); result != CUDA_SUCCESS || n == 0) return result;      \
    return post_cuMemsetD##bits##Async(dst, value, n, stream);                                                        \
  }                                                                                                                   \
  CUresult handle_cuMemsetD2D##bits##_v2(CUdeviceptr dst, size_t pitch, type value, size_t width, size_t height)       \
      noexcept {                                                                                                      \
    CUresult result = check(dst, bits / 8, width, pitch, height, nullptr);                                            \
    if (result != CUDA_SUCCESS || width == 0 || height == 0) return result;                                           \
    return post_cuMemsetD2D##bits##_v2(dst, pitch, value, width, height);                                             \
  }                                                                                                                   \
  CUresult handle_cuMemsetD2D##bits##Async(CUdeviceptr dst, size_t pitch, type value, size_t width, size_t height,     \
                                           CUstream stream) noexcept {                                                \
    CUresult result = check(dst, bits / 8, width, pitch, height, stream);                                             \
    if (result != CUDA_SUCCESS || width == 0 || height == 0) return result;                                           \
    return post_cuMemsetD2D##bits##Async(dst, pitch, value, width, height, stream);                                   \
  }

BF_MEMSET(8, unsigned char)
BF_MEMSET(16, unsigned short)
BF_MEMSET(32, unsigned int)

#undef BF_MEMSET

}  // namespace bf::client
