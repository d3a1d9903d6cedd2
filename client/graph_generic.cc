// Graph nodes by the calls for all kinds, and by those of older versions: they become the kinds' own calls.
#include <algorithm>

#include "api/remote.h"
#include "client/graphs.h"

namespace bf::client {

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

CUDA_BATCH_MEM_OP_NODE_PARAMS as_v1(const CUDA_BATCH_MEM_OP_NODE_PARAMS_v2& o) {
  return {.ctx = o.ctx, .count = o.count, .paramArray = o.paramArray, .flags = o.flags};
}

}  // namespace

CUresult add_node(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies, size_t numDependencies,
                  CUgraphNodeParams* nodeParams) {
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
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
      CUDA_MEM_ALLOC_NODE_PARAMS params;
      static_assert(sizeof params == sizeof nodeParams->alloc);  // the versions differ in name alone
      std::memcpy(&params, &nodeParams->alloc, sizeof params);
      const CUresult result =
          entry_cuGraphAddMemAllocNode(phGraphNode, hGraph, dependencies, numDependencies, &params);
      nodeParams->alloc.dptr = params.dptr;
      return result;
    }
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      return entry_cuGraphAddMemFreeNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams->free.dptr);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
      const CUDA_BATCH_MEM_OP_NODE_PARAMS params = as_v1(nodeParams->memOp);
      return entry_cuGraphAddBatchMemOpNode(phGraphNode, hGraph, dependencies, numDependencies, &params);
    }
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
      return CUDA_ERROR_NOT_SUPPORTED;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult handle_cuGraphAddNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                               size_t numDependencies, CUgraphNodeParams* nodeParams) noexcept {
  return entry_cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, nullptr, numDependencies, nodeParams);
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
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return entry_cuGraphMemcpyNodeSetParams(hNode, &nodeParams->memcpy.copyParams);
    case CU_GRAPH_NODE_TYPE_HOST: {
      const CUDA_HOST_NODE_PARAMS params{.fn = nodeParams->host.fn, .userData = nodeParams->host.userData};
      return entry_cuGraphHostNodeSetParams(hNode, &params);
    }
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
      const CUDA_BATCH_MEM_OP_NODE_PARAMS params = as_v1(nodeParams->memOp);
      return entry_cuGraphBatchMemOpNodeSetParams(hNode, &params);
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
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return entry_cuGraphExecMemcpyNodeSetParams(hGraphExec, hNode, &nodeParams->memcpy.copyParams,
                                                  nodeParams->memcpy.copyCtx);
    case CU_GRAPH_NODE_TYPE_HOST: {
      const CUDA_HOST_NODE_PARAMS params{.fn = nodeParams->host.fn, .userData = nodeParams->host.userData};
      return entry_cuGraphExecHostNodeSetParams(hGraphExec, hNode, &params);
    }
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
      const CUDA_BATCH_MEM_OP_NODE_PARAMS params = as_v1(nodeParams->memOp);
      return entry_cuGraphExecBatchMemOpNodeSetParams(hGraphExec, hNode, &params);
    }
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return entry_cuGraphExecEventWaitNodeSetEvent(hGraphExec, hNode, nodeParams->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return entry_cuGraphExecEventRecordNodeSetEvent(hGraphExec, hNode, nodeParams->eventRecord.event);
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

// --- Older versions
// ----------------------------------------------------------------------------------------------------

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

}  // namespace bf::client
