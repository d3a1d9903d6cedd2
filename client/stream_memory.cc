// Stream memory operations: waits for and writes of words in memory, which may be the program's.
#include "api/remote.h"
#include "client/contexts.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

// The word's memory is reachable, and as the program left it.
CUresult prepare(CUstream stream, CUdeviceptr address) {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(stream); result != CUDA_SUCCESS) return result;
  if (state().ranges.any_hidden() && state().ranges.hidden(address)) {
    if (CUresult result = reach(address); result != CUDA_SUCCESS) return result;
  }
  return publish_changes(stream);
}

}  // namespace

CUresult handle_cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags) noexcept {
  if (CUresult result = prepare(stream, addr); result != CUDA_SUCCESS) return result;
  return remote_cuStreamWriteValue32_v2(stream, addr, value, flags);
}

CUresult handle_cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags) noexcept {
  if (CUresult result = prepare(stream, addr); result != CUDA_SUCCESS) return result;
  return remote_cuStreamWriteValue64_v2(stream, addr, value, flags);
}

CUresult handle_cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags) noexcept {
  if (CUresult result = prepare(stream, addr); result != CUDA_SUCCESS) return result;
  return remote_cuStreamWaitValue32_v2(stream, addr, value, flags);
}

CUresult handle_cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags) noexcept {
  if (CUresult result = prepare(stream, addr); result != CUDA_SUCCESS) return result;
  return remote_cuStreamWaitValue64_v2(stream, addr, value, flags);
}

CUresult handle_cuStreamBatchMemOp_v2(CUstream stream, unsigned int count, CUstreamBatchMemOpParams* paramArray,
                                      unsigned int flags) noexcept {
  for (unsigned int i = 0; paramArray && i < count; ++i) {
    const CUstreamBatchMemOpParams& op = paramArray[i];
    CUdeviceptr address = 0;
    if (op.operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 || op.operation == CU_STREAM_MEM_OP_WAIT_VALUE_64)
      address = op.waitValue.address;
    if (op.operation == CU_STREAM_MEM_OP_WRITE_VALUE_32 || op.operation == CU_STREAM_MEM_OP_WRITE_VALUE_64)
      address = op.writeValue.address;
    if (CUresult result = prepare(stream, address); result != CUDA_SUCCESS) return result;
  }
  return remote_cuStreamBatchMemOp_v2(stream, count, paramArray, flags);
}

}  // namespace bf::client
