// Functions that are other calls in disguise: older signatures, batches of questions, generic graph nodes. The table
// carries them as "local" (or client = "hand"); nothing here has state of its own.
#include <algorithm>
#include <cstring>

#include "api/remote.h"

namespace bf::client {

// --- Older signatures
// --------------------------------------------------------------------------------------------------

CUresult handle_cuMemAllocHost(void** pp, unsigned int bytesize) noexcept {
  return entry_cuMemAllocHost_v2(pp, bytesize);
}

CUresult handle_cuMemcpyBatchAsync(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                                   CUmemcpyAttributes* attrs, size_t* attrsIdxs, size_t numAttrs, size_t* failIdx,
                                   CUstream hStream) noexcept {
  if (failIdx) *failIdx = SIZE_MAX;  // "no particular copy failed"
  return entry_cuMemcpyBatchAsync_v2(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, hStream);
}

CUresult handle_cuStreamBeginCapture(CUstream hStream) noexcept {
  return entry_cuStreamBeginCapture_v2(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

CUresult handle_cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus* captureStatus_out,
                                       cuuint64_t* id_out) noexcept {
  return entry_cuStreamGetCaptureInfo_v2(hStream, captureStatus_out, id_out, nullptr, nullptr, nullptr);
}

CUresult handle_cuGraphInstantiate_v2(CUgraphExec* phGraphExec, CUgraph hGraph, CUgraphNode* phErrorNode,
                                      char* logBuffer, size_t bufferSize) noexcept {
  const CUresult result = entry_cuGraphInstantiateWithFlags(phGraphExec, hGraph, 0);
  if (phErrorNode) *phErrorNode = nullptr;
  if (logBuffer && bufferSize) logBuffer[0] = '\0';
  return result;
}

CUresult handle_cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode* hErrorNode_out,
                                  CUgraphExecUpdateResult* updateResult_out) noexcept {
  if (!updateResult_out) return CUDA_ERROR_INVALID_VALUE;
  CUgraphExecUpdateResultInfo info{};
  const CUresult result = entry_cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);
  if (result != CUDA_SUCCESS && result != CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE) return result;
  if (hErrorNode_out) *hErrorNode_out = info.errorNode;
  *updateResult_out = info.result;
  return result;
}

// --- Questions whose answer has a size of its own
// ----------------------------------------------------------------------

namespace {

// The reuse attributes are ints, all others 64-bit (cuda.h 13.0, CUmemPool_attribute).
size_t pool_attribute_bytes(CUmemPool_attribute attr) {
  switch (attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      return sizeof(int);
    default:
      return sizeof(cuuint64_t);
  }
}

}  // namespace

CUresult handle_cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) noexcept {
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  cuuint64_t wide = 0;
  const CUresult result = remote_cuMemPoolGetAttribute(pool, attr, &wide);
  if (result == CUDA_SUCCESS) std::memcpy(value, &wide, pool_attribute_bytes(attr));
  return result;
}

CUresult handle_cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) noexcept {
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  cuuint64_t wide = 0;
  std::memcpy(&wide, value, pool_attribute_bytes(attr));
  return remote_cuMemPoolSetAttribute(pool, attr, &wide);
}

CUresult handle_cuMemRangeGetAttributes(void** data, size_t* dataSizes, CUmem_range_attribute* attributes,
                                        size_t numAttributes, CUdeviceptr devPtr, size_t count) noexcept {
  if (!data || !dataSizes || !attributes || numAttributes == 0) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < numAttributes; i++)
    if (CUresult why = entry_cuMemRangeGetAttribute(data[i], dataSizes[i], attributes[i], devPtr, count)) return why;
  return CUDA_SUCCESS;
}

// Cluster sizes stand in the launch attributes, which travel beside the struct.
namespace {

std::span<const std::byte> attribute_bytes(const CUlaunchConfig& config) {
  return std::as_bytes(std::span(config.attrs, config.attrs ? config.numAttrs : 0));
}

}  // namespace

CUresult handle_cuOccupancyMaxActiveClusters(int* numClusters, CUfunction func, const CUlaunchConfig* config) noexcept {
  if (!numClusters || !config) return CUDA_ERROR_INVALID_VALUE;
  return remote_cuOccupancyMaxActiveClusters(numClusters, func, config, attribute_bytes(*config));
}

CUresult handle_cuOccupancyMaxPotentialClusterSize(int* clusterSize, CUfunction func,
                                                   const CUlaunchConfig* config) noexcept {
  if (!clusterSize || !config) return CUDA_ERROR_INVALID_VALUE;
  return remote_cuOccupancyMaxPotentialClusterSize(clusterSize, func, config, attribute_bytes(*config));
}

}  // namespace bf::client
