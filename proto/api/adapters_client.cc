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

namespace {

// The parameters of every version begin alike; later versions append.
template <typename Old>
CUDA_KERNEL_NODE_PARAMS as_v2(const Old& old) {
  CUDA_KERNEL_NODE_PARAMS params{};
  params.func = old.func;
  params.gridDimX = old.gridDimX;
  params.gridDimY = old.gridDimY;
  params.gridDimZ = old.gridDimZ;
  params.blockDimX = old.blockDimX;
  params.blockDimY = old.blockDimY;
  params.blockDimZ = old.blockDimZ;
  params.sharedMemBytes = old.sharedMemBytes;
  params.kernelParams = old.kernelParams;
  params.extra = old.extra;
  if constexpr (requires { old.kern; }) params.kern = old.kern;
  if constexpr (requires { old.ctx; }) params.ctx = old.ctx;
  return params;
}

CUDA_KERNEL_NODE_PARAMS_v1 as_v1(const CUDA_KERNEL_NODE_PARAMS& k) {
  return {.func = k.func,
          .gridDimX = k.gridDimX,
          .gridDimY = k.gridDimY,
          .gridDimZ = k.gridDimZ,
          .blockDimX = k.blockDimX,
          .blockDimY = k.blockDimY,
          .blockDimZ = k.blockDimZ,
          .sharedMemBytes = k.sharedMemBytes,
          .kernelParams = k.kernelParams,
          .extra = k.extra};
}

CUDA_MEMSET_NODE_PARAMS as_v1(const CUDA_MEMSET_NODE_PARAMS_v2& m) {
  return {.dst = m.dst,
          .pitch = m.pitch,
          .value = m.value,
          .elementSize = m.elementSize,
          .width = m.width,
          .height = m.height};
}

}  // namespace

CUresult handle_cuGraphAddKernelNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                     size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS params = as_v2(*nodeParams);
  return entry_cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &params);
}

CUresult handle_cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  CUDA_KERNEL_NODE_PARAMS params{};
  const CUresult result = entry_cuGraphKernelNodeGetParams_v2(hNode, &params);
  if (result == CUDA_SUCCESS) *nodeParams = as_v1(params);
  return result;
}

CUresult handle_cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS params = as_v2(*nodeParams);
  return entry_cuGraphKernelNodeSetParams_v2(hNode, &params);
}

CUresult handle_cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                               const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS params = as_v2(*nodeParams);
  return entry_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &params);
}

// --- Generic graph nodes
// -----------------------------------------------------------------------------------------------

CUresult handle_cuGraphAddNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                               size_t numDependencies, CUgraphNodeParams* nodeParams) noexcept {
  return entry_cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, nullptr, numDependencies, nodeParams);
}

CUresult handle_cuGraphAddNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                  const CUgraphEdgeData* dependencyData, size_t numDependencies,
                                  CUgraphNodeParams* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  static constexpr CUgraphEdgeData kFullDependency{};
  for (size_t i = 0; dependencyData && i < numDependencies; i++)
    if (std::memcmp(&dependencyData[i], &kFullDependency, sizeof(kFullDependency)) != 0)
      return CUDA_ERROR_NOT_SUPPORTED;
  switch (nodeParams->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
      const CUDA_KERNEL_NODE_PARAMS params = as_v2(nodeParams->kernel);
      return entry_cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &params);
    }
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return entry_cuGraphAddMemcpyNode(phGraphNode, hGraph, dependencies, numDependencies,
                                        &nodeParams->memcpy.copyParams, nodeParams->memcpy.copyCtx);
    case CU_GRAPH_NODE_TYPE_MEMSET: {
      const CUDA_MEMSET_NODE_PARAMS params = as_v1(nodeParams->memset);
      return entry_cuGraphAddMemsetNode(phGraphNode, hGraph, dependencies, numDependencies, &params,
                                        nodeParams->memset.ctx);
    }
    case CU_GRAPH_NODE_TYPE_HOST: {
      const CUDA_HOST_NODE_PARAMS params{.fn = nodeParams->host.fn, .userData = nodeParams->host.userData};
      return entry_cuGraphAddHostNode(phGraphNode, hGraph, dependencies, numDependencies, &params);
    }
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return entry_cuGraphAddChildGraphNode(phGraphNode, hGraph, dependencies, numDependencies,
                                            nodeParams->graph.graph);
    case CU_GRAPH_NODE_TYPE_EMPTY:
      return entry_cuGraphAddEmptyNode(phGraphNode, hGraph, dependencies, numDependencies);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return entry_cuGraphAddEventWaitNode(phGraphNode, hGraph, dependencies, numDependencies,
                                           nodeParams->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return entry_cuGraphAddEventRecordNode(phGraphNode, hGraph, dependencies, numDependencies,
                                             nodeParams->eventRecord.event);
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult handle_cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  switch (nodeParams->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
      const CUDA_KERNEL_NODE_PARAMS params = as_v2(nodeParams->kernel);
      return entry_cuGraphKernelNodeSetParams_v2(hNode, &params);
    }
    case CU_GRAPH_NODE_TYPE_MEMSET: {
      const CUDA_MEMSET_NODE_PARAMS params = as_v1(nodeParams->memset);
      return entry_cuGraphMemsetNodeSetParams(hNode, &params);
    }
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return entry_cuGraphEventWaitNodeSetEvent(hNode, nodeParams->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return entry_cuGraphEventRecordNodeSetEvent(hNode, nodeParams->eventRecord.event);
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult handle_cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                         CUgraphNodeParams* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  switch (nodeParams->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
      const CUDA_KERNEL_NODE_PARAMS params = as_v2(nodeParams->kernel);
      return entry_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &params);
    }
    case CU_GRAPH_NODE_TYPE_MEMSET: {
      const CUDA_MEMSET_NODE_PARAMS params = as_v1(nodeParams->memset);
      return entry_cuGraphExecMemsetNodeSetParams(hGraphExec, hNode, &params, nodeParams->memset.ctx);
    }
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return entry_cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, nodeParams->graph.graph);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return entry_cuGraphExecEventWaitNodeSetEvent(hGraphExec, hNode, nodeParams->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return entry_cuGraphExecEventRecordNodeSetEvent(hGraphExec, hNode, nodeParams->eventRecord.event);
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
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
