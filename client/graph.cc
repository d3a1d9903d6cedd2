// Graphs. The driver on the server keeps them; the client adds what they need of this process: host copies through
// staging, done around each launch, and host functions.
#include <algorithm>

#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/copies.h"
#include "client/functions.h"
#include "client/launch.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

// A graph that the worker named (a child, a conditional's body) gets its object when it is first changed here.
Graph* graph_object(CUgraph graph) {
  Graph* known = state().graphs.find(value_of(graph));
  return known ? known : state().graphs.adopt(value_of(graph));
}

GraphData data_of(CUgraph graph) {
  Graph* object = state().graphs.find(value_of(graph));
  return object ? object->data : GraphData{};
}

// Packs the parameters of a kernel node; the pointers in `node` are not for the wire.
CUresult pack_node(const CUDA_KERNEL_NODE_PARAMS* node, PackedParameters* packed) {
  if (!node) return CUDA_ERROR_INVALID_VALUE;
  const void* code = node->func ? static_cast<const void*>(node->func) : node->kern;
  Function* function = state().code(code);
  if (!function) return CUDA_ERROR_INVALID_VALUE;
  return packed->pack(*function, node->kernelParams, node->extra);
}

// What a handler here made: the program gets it, and its handle ends with the graph.
CUresult give_node(Graph& graph, CUgraphNode made, CUgraphNode* node) {
  graph.nodes.push_back(value_of(made));
  *node = made;
  return CUDA_SUCCESS;
}

// Puts `packed` into the node's own memory. What it holds already stays where it is: the program may have its address.
void** keep_parameters(GraphNode& node, const void* code, const Function& function, std::span<const std::byte> packed) {
  std::lock_guard guard(node.lock);
  if (node.code != code || !std::ranges::equal(node.parameters, packed)) {
    node.code = code;
    node.parameters.assign(packed.begin(), packed.end());
    node.pointers.clear();
    for (const ParameterInfo& info : function.parameters) node.pointers.push_back(node.parameters.data() + info.offset);
  }
  return node.pointers.empty() ? nullptr : node.pointers.data();
}

}  // namespace

CUresult handle_cuGraphDestroy(CUgraph hGraph) noexcept {
  if (!hGraph) return CUDA_ERROR_INVALID_VALUE;
  GraphData data;  // its staging goes after the graph
  std::vector<uint64_t> nodes;
  if (Graph* object = state().graphs.find(value_of(hGraph))) {
    data = std::move(object->data);
    nodes = std::move(object->nodes);
  }
  const CUresult result = post_cuGraphDestroy(hGraph);
  for (uint64_t node : nodes) state().graph_nodes.erase(node);
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
  CUresult result = remote_cuGraphInstantiateWithFlags(&made, hGraph, flags);
  if (result != CUDA_SUCCESS) return result;
  state().graph_execs.find(value_of(made))->data = data_of(hGraph);
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
    post_cuGraphUpload(*phGraphExec, instantiateParams->hUploadStream);
  }
  return result;
}

CUresult handle_cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream) noexcept {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (CUresult result = check_legacy(hStream); result != CUDA_SUCCESS) return result;
  if (auto capture = capture_of(hStream)) {  // becomes a child graph: its needs are the new graph's
    CUresult result = post_cuGraphLaunch(hGraphExec, hStream);
    if (result == CUDA_SUCCESS) capture_add(*capture, exec->data);
    return result;
  }
  if (CUresult result = publish_changes(hStream); result != CUDA_SUCCESS) return result;
  if (CUresult result = copy_graph_inputs(exec->data, hStream); result != CUDA_SUCCESS) return result;
  if (CUresult result = post_cuGraphLaunch(hGraphExec, hStream); result != CUDA_SUCCESS) return result;
  if (!exec->data.callbacks.empty()) Session::get()->callbacks().graph_launched();
  return copy_graph_outputs(exec->data, hStream);
}

CUresult handle_cuGraphExecDestroy(CUgraphExec hGraphExec) noexcept {
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  GraphData data = std::move(exec->data);
  return post_cuGraphExecDestroy(hGraphExec);
}

CUresult handle_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo* resultInfo) noexcept {
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec || !resultInfo) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = remote_cuGraphExecUpdate_v2(hGraphExec, hGraph, resultInfo);
  if (result == CUDA_SUCCESS) exec->data = data_of(hGraph);
  return result;
}

// --- Nodes ---------------------------------------------------------------------------------------------------------------------

CUresult handle_cuGraphAddKernelNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                        size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS* nodeParams) noexcept {
  if (!phGraphNode) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  PackedParameters packed;
  if (CUresult result = pack_node(nodeParams, &packed); result != CUDA_SUCCESS) return result;
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddKernelNode_v2(&made, hGraph, dependencies, numDependencies, nodeParams, packed.bytes());
  return result == CUDA_SUCCESS ? give_node(*graph, made, phGraphNode) : result;
}

CUresult handle_cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  CUDA_KERNEL_NODE_PARAMS found{};
  std::span<const std::byte> packed;
  if (CUresult result = remote_cuGraphKernelNodeGetParams_v2(hNode, &found, packed); result != CUDA_SUCCESS) return result;
  // The driver tells a function also for a node that was made from a kernel, and perhaps a kernel for a function: of
  // the two at least one is what the program used.
  if (!state().kernels.find(value_of(found.kern))) found.kern = nullptr;
  const void* code = found.kern ? static_cast<const void*>(found.kern) : found.func;
  const Function* function = state().code(code);
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  if (packed.size() != function->parameter_bytes) return malformed_reply("cuGraphKernelNodeGetParams_v2");
  const uint64_t value = value_of(hNode);
  GraphNode* node = state().graph_nodes.find(value);
  if (!node) node = state().graph_nodes.adopt(value);
  if (!node) return CUDA_ERROR_INVALID_VALUE;
  found.kernelParams = keep_parameters(*node, code, *function, packed);
  if (found.func && !state().code(found.func)) {
    std::optional<CurrentContext> current;
    if (found.ctx) current.emplace(value_of(found.ctx));
    if (CUresult result = function_of_kernel(found.kern, &found.func); result != CUDA_SUCCESS) return result;
  }
  *nodeParams = found;
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphKernelNodeSetParams_v2(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS* nodeParams) noexcept {
  PackedParameters packed;
  if (CUresult result = pack_node(nodeParams, &packed); result != CUDA_SUCCESS) return result;
  return remote_cuGraphKernelNodeSetParams_v2(hNode, nodeParams, packed.bytes());
}

CUresult handle_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                  const CUDA_KERNEL_NODE_PARAMS* nodeParams) noexcept {
  PackedParameters packed;
  if (CUresult result = pack_node(nodeParams, &packed); result != CUDA_SUCCESS) return result;
  return remote_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, nodeParams, packed.bytes());
}

CUresult handle_cuGraphAddMemcpyNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                     size_t numDependencies, const CUDA_MEMCPY3D* copyParams, CUcontext ctx) noexcept {
  if (!phGraphNode || !copyParams) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  Box box;
  if (CUresult result = make_box(*copyParams, &box); result != CUDA_SUCCESS) return result;
  if (box.from_host && box.to_host) return CUDA_ERROR_NOT_SUPPORTED;
  HostCopy copy;
  if (box.from_host || box.to_host) {
    copy.host = box.from_host ? box.source : box.destination;
    copy.to_device = box.from_host;
    CUresult result;
    std::optional<CurrentContext> current;
    if (ctx) current.emplace(value_of(ctx));
    copy.staging = make_staging(copy.host.bytes(), &result);
    if (!copy.staging) return result;
    put_staging(box.copy, box.from_host, copy.staging->address);
  }
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddMemcpyNode(&made, hGraph, dependencies, numDependencies, &box.copy, ctx);
  if (result != CUDA_SUCCESS) return result;
  if (copy.staging) graph->data.copies.push_back(std::move(copy));
  return give_node(*graph, made, phGraphNode);
}

CUresult handle_cuGraphAddHostNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                   size_t numDependencies, const CUDA_HOST_NODE_PARAMS* nodeParams) noexcept {
  if (!phGraphNode || !nodeParams || !nodeParams->fn) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  Callbacks::Function function;
  function.function = nodeParams->fn;
  function.user = nodeParams->userData;
  function.repeats = true;
  auto callback = std::make_shared<GraphCallback>(Session::get()->callbacks().add(function));
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddHostNode(&made, hGraph, dependencies, numDependencies, nullptr, callback->id);
  if (result != CUDA_SUCCESS) return result;
  graph->data.callbacks.push_back(std::move(callback));
  return give_node(*graph, made, phGraphNode);
}

CUresult handle_cuGraphAddChildGraphNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                         size_t numDependencies, CUgraph childGraph) noexcept {
  if (!phGraphNode) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddChildGraphNode(&made, hGraph, dependencies, numDependencies, childGraph);
  if (result != CUDA_SUCCESS) return result;
  graph->data.add(data_of(childGraph));
  return give_node(*graph, made, phGraphNode);
}

}  // namespace bf::client
