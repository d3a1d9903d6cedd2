// Memory sets: checked against the known ranges, then posted.
#include "api/remote.h"
#include "base/log.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/copies.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

// `rows` rows of `width` elements of `element` bytes, `pitch` bytes apart.
// `host`: in host memory that the device does not reach.
CUresult check(CUdeviceptr dst, size_t element, size_t width, size_t pitch, size_t rows, CUstream stream, bool* host) {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(stream); result != CUDA_SUCCESS) return result;
  if (dst % element) return CUDA_ERROR_INVALID_VALUE;
  *host = false;
  if (width == 0 || rows == 0) return CUDA_SUCCESS;
  if (width > SIZE_MAX / element || (rows > 1 && (pitch < width * element || pitch > SIZE_MAX / rows))) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  size_t extent = (rows - 1) * pitch + width * element;
  auto range = state().ranges.find(dst);
  if (!range || extent > range->base + range->bytes - dst) {
    BF_DEBUG("a set of {} bytes at {:#x} is not within known memory", extent, dst);
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (CUresult result = check_legacy(stream); result != CUDA_SUCCESS) return result;
  if (range->host() && !range->mirrored && capture_of(stream)) {
    if (CUresult result = reach(dst); result != CUDA_SUCCESS) return result;
    range->mirrored = true;
  }
  *host = range->host() && !range->mirrored;
  return range->host() ? publish_changes(stream) : CUDA_SUCCESS;
}

// A set of host memory that the device does not reach: the worker sends the bytes back in stream order.
CUresult fill(CUdeviceptr dst, size_t element, uint32_t value, size_t width, size_t pitch, size_t rows, CUstream stream) {
  HostLayout layout = HostLayout::dense(reinterpret_cast<void*>(dst), width * element);
  if (rows > 1) {
    layout.rows = rows;
    layout.pitch = pitch;
    layout.slice_pitch = rows * pitch;
  }
  Landing& landing = Session::get()->landing();
  const uint64_t ticket = landing.issue(layout);
  CUresult result = post_bfHostFill(ticket, value, uint32_t(element), layout.bytes(), value_of(stream));
  if (result != CUDA_SUCCESS) landing.forget(ticket);
  return result;
}

// The synchronous forms wait where host memory is set.
CUresult wait_for(CUdeviceptr dst, CUresult result) {
  if (result != CUDA_SUCCESS) return result;
  auto range = state().ranges.find(dst);
  if (!range || !range->host()) return result;
  return synchronize(default_stream());
}

}  // namespace

#define BF_MEMSET(bits, type)                                                                                          \
  CUresult handle_cuMemsetD##bits##_v2(CUdeviceptr dst, type value, size_t n) noexcept {                                \
    bool host;                                                                                                         \
    CUresult result = check(dst, bits / 8, n, 0, 1, default_stream(), &host);                                                   \
    if (result != CUDA_SUCCESS || n == 0) return result;                                                               \
    return wait_for(dst, host ? fill(dst, bits / 8, value, n, 0, 1, default_stream())                                  \
                              : post_cuMemsetD##bits##_v2(dst, value, n));                                             \
  }                                                                                                                    \
  CUresult handle_cuMemsetD##bits##Async(CUdeviceptr dst, type value, size_t n, CUstream stream) noexcept {             \
    bool host;                                                                                                         \
    CUresult result = check(dst, bits / 8, n, 0, 1, stream, &host);                                                    \
    if (result != CUDA_SUCCESS || n == 0) return result;                                                               \
    return host ? fill(dst, bits / 8, value, n, 0, 1, stream) : post_cuMemsetD##bits##Async(dst, value, n, stream);    \
  }                                                                                                                    \
  CUresult handle_cuMemsetD2D##bits##_v2(CUdeviceptr dst, size_t pitch, type value, size_t width, size_t height)        \
      noexcept {                                                                                                       \
    bool host;                                                                                                         \
    CUresult result = check(dst, bits / 8, width, pitch, height, default_stream(), &host);                                      \
    if (result != CUDA_SUCCESS || width == 0 || height == 0) return result;                                            \
    return wait_for(dst, host ? fill(dst, bits / 8, value, width, pitch, height, default_stream())                     \
                              : post_cuMemsetD2D##bits##_v2(dst, pitch, value, width, height));                        \
  }                                                                                                                    \
  CUresult handle_cuMemsetD2D##bits##Async(CUdeviceptr dst, size_t pitch, type value, size_t width, size_t height,      \
                                           CUstream stream) noexcept {                                                 \
    bool host;                                                                                                         \
    CUresult result = check(dst, bits / 8, width, pitch, height, stream, &host);                                       \
    if (result != CUDA_SUCCESS || width == 0 || height == 0) return result;                                            \
    return host ? fill(dst, bits / 8, value, width, pitch, height, stream)                                             \
                : post_cuMemsetD2D##bits##Async(dst, pitch, value, width, height, stream);                             \
  }

BF_MEMSET(8, unsigned char)
BF_MEMSET(16, unsigned short)
BF_MEMSET(32, unsigned int)

#undef BF_MEMSET

}  // namespace bf::client
