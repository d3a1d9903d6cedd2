// Whole graphs. The driver on the server keeps them; the client adds what they need of this process: host copies through
// staging, done around each launch, and host functions.
#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/copies.h"
#include "client/graphs.h"
#include "client/mirrors.h"
#include "proto/abi/graph_dot.h"

namespace bf::client {

CUresult handle_cuGraphDestroy(CUgraph hGraph) noexcept {
  if (!hGraph) return CUDA_ERROR_INVALID_VALUE;
  GraphData data;  // goes after the graph
  std::vector<uint64_t> nodes, bodies;
  if (Graph* object = state().graphs.find(value_of(hGraph))) {
    data = std::move(object->data);
    nodes = std::move(object->nodes);
    bodies = std::move(object->bodies);
    for (uint64_t body : bodies)
      if (Graph* inner = state().graphs.find(body)) data.add(std::exchange(inner->data, {}));
  }
  const CUresult result = post_cuGraphDestroy(hGraph);
  for (uint64_t node : nodes) {
    if (GraphNode* object = state().graph_nodes.find(node)) data.add(std::exchange(object->data, {}));
    state().graph_nodes.erase(node);
  }
  return result;
}

CUresult handle_cuGraphClone(CUgraph* phGraphClone, CUgraph originalGraph) noexcept {
  if (!phGraphClone) return CUDA_ERROR_INVALID_VALUE;
  CUgraph made = nullptr;
  CUresult result = remote_cuGraphClone(&made, originalGraph);
  if (result != CUDA_SUCCESS) return result;
  state().graphs.find(value_of(made))->data = data_of(originalGraph);
  *phGraphClone = made;
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph, unsigned long long flags) noexcept {
  if (!phGraphExec) return CUDA_ERROR_INVALID_VALUE;
  CUgraphExec made = nullptr;
  std::span<const std::byte> parts;
  CUresult result = remote_cuGraphInstantiateWithFlags(&made, hGraph, flags, parts);
  if (result != CUDA_SUCCESS) return result;
  GraphExec& exec = *state().graph_execs.find(value_of(made));
  exec.data = data_of(hGraph);
  if (!set_parts(exec, parts)) return malformed_reply("cuGraphInstantiateWithFlags");
  *phGraphExec = made;
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphInstantiateWithParams(CUgraphExec* phGraphExec, CUgraph hGraph,
                                             CUDA_GRAPH_INSTANTIATE_PARAMS* instantiateParams) noexcept {
  if (!instantiateParams) return CUDA_ERROR_INVALID_VALUE;
  cuuint64_t flags = instantiateParams->flags & ~cuuint64_t(CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD);
  CUresult result = handle_cuGraphInstantiateWithFlags(phGraphExec, hGraph, flags);
  instantiateParams->hErrNode_out = nullptr;
  instantiateParams->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
  if (result == CUDA_SUCCESS && (instantiateParams->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD)) {
    const CUstream stream = instantiateParams->hUploadStream;
    post_cuGraphUpload(*phGraphExec, per_thread() ? per_thread_stream(stream) : stream);
  }
  return result;
}

namespace {

// Launches of an executable graph follow one another; so must the copies around them, also in another stream.
CUresult follow_last_launch(GraphExec& exec, CUstream stream) {
  if (exec.done && exec.stream != stream) {
    if (CUresult result = post_cuStreamWaitEvent(stream, exec.done, 0); result != CUDA_SUCCESS) return result;
  }
  return copy_graph_inputs(exec, stream);
}

CUresult mark_launch(GraphExec& exec, CUstream stream) {
  exec.stream = stream;
  exec.context = current_context();
  if (!exec.done) {
    CUresult result = entry_cuEventCreate(&exec.done, CU_EVENT_DISABLE_TIMING);
    if (result != CUDA_SUCCESS) return result;
  }
  return post_cuEventRecordWithFlags(exec.done, stream, 0);
}

}  // namespace

CUresult handle_cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream) noexcept {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (CUresult result = check_legacy(hStream); result != CUDA_SUCCESS) return result;
  if (auto capture = capture_of(hStream)) {  // becomes a child graph: its needs are the new graph's
    CUresult result = post_cuGraphLaunch(hGraphExec, hStream);
    if (result == CUDA_SUCCESS) {
      GraphData data = exec->data;
      for (const StagedCopy& copy : exec->copies) data.staging.push_back(copy.staging);
      capture_add(*capture, data);
    }
    return result;
  }
  if (CUresult result = publish_changes(hStream); result != CUDA_SUCCESS) return result;
  const bool needs_us = !exec->copies.empty() || !exec->data.user_objects.empty();
  if (needs_us) {
    if (CUresult result = follow_last_launch(*exec, hStream); result != CUDA_SUCCESS) return result;
  }
  if (CUresult result = post_cuGraphLaunch(hGraphExec, hStream); result != CUDA_SUCCESS) return result;
  if (!exec->data.callbacks.empty()) Session::get()->callbacks().graph_launched();
  if (!needs_us) return CUDA_SUCCESS;
  if (CUresult result = copy_graph_outputs(*exec, hStream); result != CUDA_SUCCESS) return result;
  return mark_launch(*exec, hStream);
}

CUresult handle_cuGraphExecDestroy(CUgraphExec hGraphExec) noexcept {
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  let_go_after_run(*exec);
  return post_cuGraphExecDestroy(hGraphExec);
}

CUresult handle_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo* resultInfo) noexcept {
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  CUgraphExecUpdateResultInfo unasked;
  if (!resultInfo) resultInfo = &unasked;
  std::span<const std::byte> parts;
  CUresult result = remote_cuGraphExecUpdate_v2(hGraphExec, hGraph, resultInfo, parts);
  if (result != CUDA_SUCCESS) return result;
  exec->data = data_of(hGraph);
  return set_parts(*exec, parts) ? CUDA_SUCCESS : malformed_reply("cuGraphExecUpdate_v2");
}

// On this machine: the driver would write the file on the server.
CUresult handle_cuGraphDebugDotPrint(CUgraph hGraph, const char* path, unsigned int flags) noexcept {
  const abi::GraphQuestions ask{remote_cuGraphGetNodes,           remote_cuGraphGetEdges_v2,
                                remote_cuGraphNodeGetType,        remote_cuGraphChildGraphNodeGetGraph,
                                handle_cuGraphKernelNodeGetParams_v2, handle_cuGraphMemcpyNodeGetParams,
                                remote_cuGraphMemsetNodeGetParams, handle_cuFuncGetName};
  return abi::print_graph(ask, hGraph, path, flags);
}

CUresult handle_cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled) noexcept {
  CUresult result = remote_cuGraphNodeSetEnabled(hGraphExec, hNode, isEnabled);
  if (GraphExec* exec = state().graph_execs.find(value_of(hGraphExec)); exec && result == CUDA_SUCCESS && !isEnabled) {
    exec->skips_nodes = true;
  }
  return result;
}

}  // namespace bf::client
