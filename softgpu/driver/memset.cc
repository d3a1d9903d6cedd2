#include <cstring>

#include "softgpu/driver/copy.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/graph.h"
#include "softgpu/driver/stream.h"

namespace bf::softgpu {

CUresult check_memset(const CUDA_MEMSET_NODE_PARAMS& params) {
  if (params.elementSize != 1 && params.elementSize != 2 && params.elementSize != 4) return CUDA_ERROR_INVALID_VALUE;
  if (params.width == 0 || params.height == 0) return CUDA_SUCCESS;
  uint64_t row = params.width * params.elementSize;
  if (params.dst % params.elementSize || (params.height > 1 && params.pitch < row)) return CUDA_ERROR_INVALID_VALUE;
  AllocationRef allocation = AddressSpace::instance().find(params.dst);
  uint64_t end = params.dst + params.pitch * (params.height - 1) + row;
  for (uint64_t covered = allocation ? allocation->end() : 0; covered && covered < end;
       covered = allocation ? allocation->end() : 0)
    allocation = AddressSpace::instance().find(covered);
  return allocation ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

namespace {

CUresult submit(CUstream handle, CUdeviceptr to, size_t pitch, unsigned value, unsigned element, size_t width,
                size_t height) {
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  MemsetWork work{{to, height > 1 ? pitch : width * element, value, element, width, height}};
  BF_TRY(check_memset(work.params));
  if (width == 0 || height == 0) return CUDA_SUCCESS;
  return enqueue(stream, work);
}

// The synchronous forms are ordered by the default stream and do not wait, as documented; on host memory they do.
CUresult submit_now(CUdeviceptr to, size_t pitch, unsigned value, unsigned element, size_t width, size_t height) {
  BF_TRY(refuse_implicit_capture());
  BF_TRY(submit(nullptr, to, pitch, value, element, width, height));
  AllocationRef allocation = AddressSpace::instance().find(to);
  if (!allocation || (!allocation->host() && allocation->kind != MemoryKind::kManaged)) return CUDA_SUCCESS;
  ContextRef context;
  BF_TRY(current_context(&context));
  return synchronize(*context);
}

}  // namespace

BF_API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
  BF_ENTER();
  return submit_now(to, 0, value, 1, count, 1);
}
BF_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  BF_ENTER();
  return submit(stream, to, 0, value, 1, count, 1);
}
BF_API CUresult cuMemsetD2D8_v2(CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height) {
  BF_ENTER();
  return submit_now(to, pitch, value, 1, width, height);
}
BF_API CUresult cuMemsetD2D8Async(CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height,
                                  CUstream stream) {
  BF_ENTER();
  return submit(stream, to, pitch, value, 1, width, height);
}

BF_API CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count) {
  BF_ENTER();
  return submit_now(to, 0, value, 2, count, 1);
}
BF_API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
  BF_ENTER();
  return submit(stream, to, 0, value, 2, count, 1);
}
BF_API CUresult cuMemsetD2D16_v2(CUdeviceptr to, size_t pitch, unsigned short value, size_t width, size_t height) {
  BF_ENTER();
  return submit_now(to, pitch, value, 2, width, height);
}
BF_API CUresult cuMemsetD2D16Async(CUdeviceptr to, size_t pitch, unsigned short value, size_t width, size_t height,
                                   CUstream stream) {
  BF_ENTER();
  return submit(stream, to, pitch, value, 2, width, height);
}

BF_API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned int value, size_t count) {
  BF_ENTER();
  return submit_now(to, 0, value, 4, count, 1);
}
BF_API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream stream) {
  BF_ENTER();
  return submit(stream, to, 0, value, 4, count, 1);
}
BF_API CUresult cuMemsetD2D32_v2(CUdeviceptr to, size_t pitch, unsigned int value, size_t width, size_t height) {
  BF_ENTER();
  return submit_now(to, pitch, value, 4, width, height);
}
BF_API CUresult cuMemsetD2D32Async(CUdeviceptr to, size_t pitch, unsigned int value, size_t width, size_t height,
                                   CUstream stream) {
  BF_ENTER();
  return submit(stream, to, pitch, value, 4, width, height);
}

}  // namespace bf::softgpu
