// The nodes of graphs: making them, and their parameters in both directions. A host side of a copy becomes staging, a
// host function an id; both turn into what the program gave when it asks.
#include <algorithm>
#include <utility>

#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/copies.h"
#include "client/functions.h"
#include "client/graphs.h"
#include "client/launch.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

// Packs the parameters of a kernel node; the pointers in `node` are not for the wire.
CUresult pack_node(const CUDA_KERNEL_NODE_PARAMS* node, PackedParameters* packed) {
  if (!node) return CUDA_ERROR_INVALID_VALUE;
  const void* code = node->func ? static_cast<const void*>(node->func) : node->kern;
  Function* function = state().code(code);
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  return packed->pack(*function, node->kernelParams, node->extra);
}

// The same for a node that has parameters already: one of another kind has none such.
CUresult pack_change(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* params, PackedParameters* packed) {
  CUresult result = pack_node(params, packed);
  if (result != CUDA_ERROR_INVALID_HANDLE) return result;
  CUgraphNodeType type{};
  return remote_cuGraphNodeGetType(node, &type) == CUDA_SUCCESS && type == CU_GRAPH_NODE_TYPE_KERNEL ? result
                                                                                                     : CUDA_ERROR_INVALID_VALUE;
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

// The staging of a copy's host side, put in its place; none if both sides are the device's.
CUresult stage(const CUDA_MEMCPY3D& given, CUcontext context, CUDA_MEMCPY3D* copy, std::shared_ptr<Staging>* staging) {
  Box box;
  if (CUresult result = make_box(given, &box); result != CUDA_SUCCESS) return result;
  if (box.from_host && box.to_host) return CUDA_ERROR_NOT_SUPPORTED;
  if (box.from_host || box.to_host) {
    CUresult result;
    std::optional<CurrentContext> current;
    if (context) current.emplace(value_of(context));
    *staging = make_staging(box.from_host ? box.source : box.destination, &result);
    if (!*staging) return result;
    put_staging(box.copy, box.from_host, (*staging)->address);
  }
  *copy = box.copy;
  return CUDA_SUCCESS;
}

// Pinned memory that both ends have: its copies are the device's own, but a program speaks of it as the host's.
bool is_pinned(CUmemorytype type, CUdeviceptr address) {
  if (type != CU_MEMORYTYPE_DEVICE) return false;
  const auto range = state().ranges.find(address);
  return range && (range->kind == Range::Kind::kPinned || range->kind == Range::Kind::kRegistered);
}

// The program's memory in the place of staging.
void unstage(CUDA_MEMCPY3D& copy) {
  if (is_pinned(copy.srcMemoryType, copy.srcDevice)) {
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = reinterpret_cast<void*>(std::exchange(copy.srcDevice, 0));
  } else if (copy.srcMemoryType != CU_MEMORYTYPE_ARRAY) {
    if (auto staging = state().staging.find(copy.srcMemoryType == CU_MEMORYTYPE_HOST ? value_of(copy.srcHost) : copy.srcDevice)) {
      copy.srcMemoryType = CU_MEMORYTYPE_HOST;
      copy.srcHost = staging->host.base;
      copy.srcDevice = 0;
      copy.srcPitch = staging->host.rows > 1 ? staging->host.pitch : 0;
      copy.srcHeight = staging->host.slices > 1 ? staging->host.slice_pitch / staging->host.pitch : 0;
    }
  }
  if (is_pinned(copy.dstMemoryType, copy.dstDevice)) {
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = reinterpret_cast<void*>(std::exchange(copy.dstDevice, 0));
  }
  if (copy.dstMemoryType == CU_MEMORYTYPE_ARRAY) return;
  if (auto staging = state().staging.find(copy.dstMemoryType == CU_MEMORYTYPE_HOST ? value_of(copy.dstHost) : copy.dstDevice)) {
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = staging->host.base;
    copy.dstDevice = 0;
    copy.dstPitch = staging->host.rows > 1 ? staging->host.pitch : 0;
    copy.dstHeight = staging->host.slices > 1 ? staging->host.slice_pitch / staging->host.pitch : 0;
  }
}

// The operations of a batch; device code reaches the words that they name.
CUresult take_operations(const CUDA_BATCH_MEM_OP_NODE_PARAMS* params, std::span<const std::byte>* operations) {
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  *operations = std::as_bytes(std::span(params->paramArray, params->paramArray ? params->count : 0));
  return reach_pointers(*operations);
}

}  // namespace

// --- Kernels -------------------------------------------------------------------------------------------------------------

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
  GraphNode* node = node_object(hNode);
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
  if (CUresult result = pack_change(hNode, nodeParams, &packed); result != CUDA_SUCCESS) return result;
  return remote_cuGraphKernelNodeSetParams_v2(hNode, nodeParams, packed.bytes());
}

CUresult handle_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                  const CUDA_KERNEL_NODE_PARAMS* nodeParams) noexcept {
  PackedParameters packed;
  if (CUresult result = pack_change(hNode, nodeParams, &packed); result != CUDA_SUCCESS) return result;
  return remote_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, nodeParams, packed.bytes());
}

// --- Copies --------------------------------------------------------------------------------------------------------------

CUresult handle_cuGraphAddMemcpyNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                     size_t numDependencies, const CUDA_MEMCPY3D* copyParams, CUcontext ctx) noexcept {
  if (!phGraphNode || !copyParams) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEMCPY3D copy;
  std::shared_ptr<Staging> staging;
  if (CUresult result = stage(*copyParams, ctx, &copy, &staging); result != CUDA_SUCCESS) return result;
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddMemcpyNode(&made, hGraph, dependencies, numDependencies, &copy, ctx);
  if (result != CUDA_SUCCESS) return result;
  if (staging) graph->data.staging.push_back(std::move(staging));
  return give_node(*graph, made, phGraphNode);
}

CUresult handle_cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEMCPY3D copy{};
  if (CUresult result = remote_cuGraphMemcpyNodeGetParams(hNode, &copy); result != CUDA_SUCCESS) return result;
  unstage(copy);
  *nodeParams = copy;
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  GraphNode* node = node_object(hNode);
  if (!node) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEMCPY3D copy;
  std::shared_ptr<Staging> staging;
  if (CUresult result = stage(*nodeParams, nullptr, &copy, &staging); result != CUDA_SUCCESS) return result;
  CUresult result = remote_cuGraphMemcpyNodeSetParams(hNode, &copy);
  if (result != CUDA_SUCCESS || !staging) return result;
  node->data.staging.assign(1, std::move(staging));
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMCPY3D* copyParams,
                                               CUcontext ctx) noexcept {
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec || !copyParams) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEMCPY3D copy;
  std::shared_ptr<Staging> staging;  // the executable graph's from set_parts() on
  if (CUresult result = stage(*copyParams, ctx, &copy, &staging); result != CUDA_SUCCESS) return result;
  std::span<const std::byte> parts;
  CUresult result = remote_cuGraphExecMemcpyNodeSetParams(hGraphExec, hNode, &copy, ctx, parts);
  if (result != CUDA_SUCCESS || !staging) return result;
  return set_parts(*exec, parts) ? CUDA_SUCCESS : malformed_reply("cuGraphExecMemcpyNodeSetParams");
}

// --- Sets, of memory that device code reaches ------------------------------------------------------------------------------

namespace {

CUresult reach_target(const CUDA_MEMSET_NODE_PARAMS* params) {
  return params ? reach_pointers(std::as_bytes(std::span(params, 1))) : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

CUresult handle_cuGraphAddMemsetNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                     size_t numDependencies, const CUDA_MEMSET_NODE_PARAMS* memsetParams, CUcontext ctx) noexcept {
  Graph* graph = graph_object(hGraph);
  if (!phGraphNode || !graph) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = reach_target(memsetParams); result != CUDA_SUCCESS) return result;
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddMemsetNode(&made, hGraph, dependencies, numDependencies, memsetParams, ctx);
  return result == CUDA_SUCCESS ? give_node(*graph, made, phGraphNode) : result;
}

CUresult handle_cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS* nodeParams) noexcept {
  if (CUresult result = reach_target(nodeParams); result != CUDA_SUCCESS) return result;
  return remote_cuGraphMemsetNodeSetParams(hNode, nodeParams);
}

CUresult handle_cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                               const CUDA_MEMSET_NODE_PARAMS* memsetParams, CUcontext ctx) noexcept {
  if (CUresult result = reach_target(memsetParams); result != CUDA_SUCCESS) return result;
  return remote_cuGraphExecMemsetNodeSetParams(hGraphExec, hNode, memsetParams, ctx);
}

// --- Host functions --------------------------------------------------------------------------------------------------------

CUresult handle_cuGraphAddHostNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                   size_t numDependencies, const CUDA_HOST_NODE_PARAMS* nodeParams) noexcept {
  if (!phGraphNode || !nodeParams || !nodeParams->fn) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  auto callback = make_callback(nodeParams->fn, nodeParams->userData);
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddHostNode(&made, hGraph, dependencies, numDependencies, nullptr, callback->id);
  if (result != CUDA_SUCCESS) return result;
  graph->data.callbacks.push_back(std::move(callback));
  return give_node(*graph, made, phGraphNode);
}

CUresult handle_cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS* nodeParams) noexcept {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  uint64_t id = 0;
  if (CUresult result = remote_cuGraphHostNodeGetParams(hNode, nullptr, id); result != CUDA_SUCCESS) return result;
  const auto function = Session::get()->callbacks().find(id);
  if (!function) return CUDA_ERROR_INVALID_VALUE;
  *nodeParams = {function->function, function->user};
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS* nodeParams) noexcept {
  GraphNode* node = node_object(hNode);
  if (!nodeParams || !nodeParams->fn || !node) return CUDA_ERROR_INVALID_VALUE;
  auto callback = make_callback(nodeParams->fn, nodeParams->userData);
  CUresult result = remote_cuGraphHostNodeSetParams(hNode, nullptr, callback->id);
  if (result == CUDA_SUCCESS) node->data.callbacks.assign(1, std::move(callback));
  return result;
}

CUresult handle_cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                             const CUDA_HOST_NODE_PARAMS* nodeParams) noexcept {
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec || !nodeParams || !nodeParams->fn) return CUDA_ERROR_INVALID_VALUE;
  auto callback = make_callback(nodeParams->fn, nodeParams->userData);
  std::span<const std::byte> parts;
  CUresult result = remote_cuGraphExecHostNodeSetParams(hGraphExec, hNode, nullptr, callback->id, parts);
  if (result != CUDA_SUCCESS) return result;
  return set_parts(*exec, parts) ? CUDA_SUCCESS : malformed_reply("cuGraphExecHostNodeSetParams");
}

// --- Graphs in graphs --------------------------------------------------------------------------------------------------------

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

CUresult handle_cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraph childGraph) noexcept {
  GraphExec* exec = state().graph_execs.find(value_of(hGraphExec));
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  std::span<const std::byte> parts;
  CUresult result = remote_cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, childGraph, parts);
  if (result != CUDA_SUCCESS) return result;
  exec->data.add(data_of(childGraph));
  return set_parts(*exec, parts) ? CUDA_SUCCESS : malformed_reply("cuGraphExecChildGraphNodeSetParams");
}

// Conditional nodes have no call of their own; the other kinds are made by theirs (add_node in adapters_client.cc), here
// with edges that carry data.
CUresult handle_cuGraphAddNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                  const CUgraphEdgeData* dependencyData, size_t numDependencies,
                                  CUgraphNodeParams* nodeParams) noexcept {
  if (!phGraphNode || !nodeParams || (numDependencies > 0 && !dependencies)) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  if (nodeParams->type != CU_GRAPH_NODE_TYPE_CONDITIONAL) {
    static constexpr CUgraphEdgeData kFullDependency{};
    const bool plain = !dependencyData || std::all_of(dependencyData, dependencyData + numDependencies, [](auto& edge) {
      return std::memcmp(&edge, &kFullDependency, sizeof edge) == 0;
    });
    if (plain) return add_node(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
    CUgraphNode made = nullptr;
    if (CUresult result = add_node(&made, hGraph, nullptr, 0, nodeParams); result != CUDA_SUCCESS) return result;
    const std::vector<CUgraphNode> to(numDependencies, made);
    CUresult result = remote_cuGraphAddDependencies_v2(hGraph, dependencies, to.data(), dependencyData, numDependencies);
    if (result == CUDA_SUCCESS) {
      *phGraphNode = made;
    } else {
      entry_cuGraphDestroyNode(made);
    }
    return result;
  }
  CUDA_CONDITIONAL_NODE_PARAMS conditional = nodeParams->conditional;
  conditional.phGraph_out = nullptr;
  CUgraphNode made = nullptr;
  std::span<const std::byte> bodies;
  CUresult result = remote_cuGraphAddNode_v2(&made, hGraph, dependencies, dependencyData, numDependencies, nullptr,
                                             std::as_bytes(std::span(&conditional, 1)), bodies);
  if (result != CUDA_SUCCESS) return result;
  if (bodies.size() != conditional.size * sizeof(CUgraph)) return malformed_reply("cuGraphAddNode_v2");
  GraphNode& node = *state().graph_nodes.find(value_of(made));
  node.bodies.resize(conditional.size);
  std::memcpy(node.bodies.data(), bodies.data(), bodies.size());
  for (CUgraph body : node.bodies) {
    if (!graph_object(body)) return malformed_reply("cuGraphAddNode_v2");
    graph->bodies.push_back(value_of(body));
  }
  nodeParams->conditional.phGraph_out = node.bodies.data();
  return give_node(*graph, made, phGraphNode);
}

// --- Memory, and operations on it --------------------------------------------------------------------------------------------

CUresult handle_cuGraphAddMemAllocNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                       size_t numDependencies, CUDA_MEM_ALLOC_NODE_PARAMS* nodeParams) noexcept {
  if (!phGraphNode || !nodeParams || (nodeParams->accessDescCount > 0 && !nodeParams->accessDescs)) return CUDA_ERROR_INVALID_VALUE;
  if (nodeParams->accessDescCount > limits::kDevices) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEM_ALLOC_NODE_PARAMS params = *nodeParams;
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddMemAllocNode(&made, hGraph, dependencies, numDependencies, &params,
                                                  std::as_bytes(std::span(params.accessDescs, params.accessDescCount)));
  if (result != CUDA_SUCCESS) return result;
  nodeParams->dptr = params.dptr;
  graph->data.memory.push_back(remember_graph_memory(params.dptr, params.bytesize, params.poolProps.location.id));
  return give_node(*graph, made, phGraphNode);
}

CUresult handle_cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS* params_out) noexcept {
  if (!params_out) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEM_ALLOC_NODE_PARAMS params{};
  std::span<const std::byte> access;
  if (CUresult result = remote_cuGraphMemAllocNodeGetParams(hNode, &params, access); result != CUDA_SUCCESS) return result;
  GraphNode* node = node_object(hNode);
  if (!node || access.size() != params.accessDescCount * sizeof(CUmemAccessDesc)) return malformed_reply("cuGraphMemAllocNodeGetParams");
  std::lock_guard guard(node->lock);
  node->access.resize(params.accessDescCount);
  if (!access.empty()) std::memcpy(node->access.data(), access.data(), access.size());
  params.accessDescs = node->access.empty() ? nullptr : node->access.data();
  *params_out = params;
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphAddBatchMemOpNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                         size_t numDependencies, const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams) noexcept {
  if (!phGraphNode) return CUDA_ERROR_INVALID_VALUE;
  Graph* graph = graph_object(hGraph);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  std::span<const std::byte> operations;
  if (CUresult result = take_operations(nodeParams, &operations); result != CUDA_SUCCESS) return result;
  CUgraphNode made = nullptr;
  CUresult result = remote_cuGraphAddBatchMemOpNode(&made, hGraph, dependencies, numDependencies, nodeParams, operations);
  return result == CUDA_SUCCESS ? give_node(*graph, made, phGraphNode) : result;
}

CUresult handle_cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode, CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams_out) noexcept {
  if (!nodeParams_out) return CUDA_ERROR_INVALID_VALUE;
  CUDA_BATCH_MEM_OP_NODE_PARAMS params{};
  std::span<const std::byte> operations;
  if (CUresult result = remote_cuGraphBatchMemOpNodeGetParams(hNode, &params, operations); result != CUDA_SUCCESS) return result;
  GraphNode* node = node_object(hNode);
  if (!node || operations.size() != params.count * sizeof(CUstreamBatchMemOpParams)) return malformed_reply("cuGraphBatchMemOpNodeGetParams");
  std::lock_guard guard(node->lock);
  node->operations.resize(params.count);
  if (!operations.empty()) std::memcpy(node->operations.data(), operations.data(), operations.size());
  params.paramArray = node->operations.data();
  *nodeParams_out = params;
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams) noexcept {
  std::span<const std::byte> operations;
  if (CUresult result = take_operations(nodeParams, &operations); result != CUDA_SUCCESS) return result;
  return remote_cuGraphBatchMemOpNodeSetParams(hNode, nodeParams, operations);
}

CUresult handle_cuGraphExecBatchMemOpNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                   const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams) noexcept {
  std::span<const std::byte> operations;
  if (CUresult result = take_operations(nodeParams, &operations); result != CUDA_SUCCESS) return result;
  return remote_cuGraphExecBatchMemOpNodeSetParams(hGraphExec, hNode, nodeParams, operations);
}

}  // namespace bf::client
