// Executable graphs: a private copy of a graph, launched by turning every node into an operation behind those before
// it.
#include <algorithm>
#include <unordered_map>

#include "softgpu/driver/driver.h"
#include "softgpu/driver/graph.h"

namespace bf::softgpu {
namespace {

CUresult find_exec(CUgraphExec handle, GraphExecRef* exec) {
  *exec = graph_execs().find(handle);
  return *exec ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// The exec's copy of a node of the graph it was made from; child graphs are searched too.
NodeRef copy_of(const Graph& graph, CUgraphNode original) {
  for (const NodeRef& node : graph.nodes) {
    if (node->original == original) return node;
    if (auto* child = std::get_if<ChildWork>(&node->work))
      if (NodeRef found = copy_of(*child->graph, original)) return found;
  }
  return nullptr;
}

CUresult find_copy(CUgraphExec exec_handle, CUgraphNode handle, CUgraphNodeType type, NodeRef* node) {
  GraphExecRef exec;
  BF_TRY(find_exec(exec_handle, &exec));
  *node = copy_of(*exec->graph, handle);
  return *node && node_type(**node) == type ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult instantiate(CUgraphExec* out, CUgraph handle, unsigned long long flags) {
  constexpr unsigned long long kFlags = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH |
                                        CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
                                        CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) return CUDA_ERROR_NOT_SUPPORTED;
  if (flags & ~kFlags) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  GraphRef graph = graphs().find(handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(check_acyclic(*graph));
  auto exec = std::make_shared<GraphExec>();
  exec->graph = clone_graph(*graph, false);
  exec->flags = flags;
  *out = graph_execs().add(std::move(exec));
  return CUDA_SUCCESS;
}

// Queues all nodes behind `entry`; the operations that nothing in the graph follows.
std::vector<OperationRef> submit_nodes(const Graph& graph, const OperationRef& entry) {
  std::unordered_map<const GraphNode*, OperationRef> operations;
  std::unordered_map<const GraphNode*, bool> followed;
  std::vector<const GraphNode*> open;
  for (const NodeRef& node : graph.nodes) open.push_back(node.get());
  while (!open.empty()) {
    std::vector<const GraphNode*> later;
    for (const GraphNode* node : open) {
      std::vector<OperationRef> before{entry};
      bool ready = true;
      for (const NodeRef& b : node->before) {
        auto it = operations.find(b.get());
        ready = ready && it != operations.end();
        if (!ready) break;
        before.push_back(it->second);
        followed[b.get()] = true;
      }
      if (!ready) {
        later.push_back(node);
        continue;
      }
      OperationRef& operation = operations[node];
      if (!node->enabled) {
        operation = Scheduler::instance().submit({}, before);
      } else if (auto* child = std::get_if<ChildWork>(&node->work)) {
        OperationRef start = Scheduler::instance().submit({}, before);
        std::vector<OperationRef> ends = submit_nodes(*child->graph, start);
        ends.push_back(start);
        operation = Scheduler::instance().submit({}, ends);
      } else if (auto* record = std::get_if<EventRecordWork>(&node->work)) {
        operation = Scheduler::instance().submit({}, before);
        std::lock_guard lock(record->event->mutex);
        record->event->recorded = operation;
        record->event->capture = nullptr;
      } else if (auto* wait = std::get_if<EventWaitWork>(&node->work)) {
        {
          std::lock_guard lock(wait->event->mutex);
          before.push_back(wait->event->recorded);
        }
        operation = Scheduler::instance().submit({}, before);
      } else {
        operation = Scheduler::instance().submit(
            [context = node->context, work = node->work] { run_work(*context, work); }, before);
      }
    }
    open.swap(later);
  }
  std::vector<OperationRef> ends;
  for (auto& [node, operation] : operations)
    if (!followed[node]) ends.push_back(operation);
  return ends;
}

// Whether `updated` has the same nodes and edges as the exec's copy, node by node in order of creation.
CUgraphExecUpdateResult compare(const Graph& current, const Graph& updated, CUgraphNode* culprit) {
  if (current.nodes.size() != updated.nodes.size()) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  auto position = [](const Graph& graph, const NodeRef& node) {
    return std::find(graph.nodes.begin(), graph.nodes.end(), node) - graph.nodes.begin();
  };
  for (size_t i = 0; i < current.nodes.size(); i++) {
    const GraphNode &a = *current.nodes[i], &b = *updated.nodes[i];
    *culprit = b.handle;
    if (node_type(a) != node_type(b)) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
    std::vector<size_t> from, to;
    for (const NodeRef& node : a.before) from.push_back(position(current, node));
    for (const NodeRef& node : b.before) to.push_back(position(updated, node));
    std::sort(from.begin(), from.end());
    std::sort(to.begin(), to.end());
    if (from != to) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    if (a.context != b.context) return CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE;
    if (auto* child = std::get_if<ChildWork>(&a.work)) {
      auto result = compare(*child->graph, *std::get<ChildWork>(b.work).graph, culprit);
      if (result != CU_GRAPH_EXEC_UPDATE_SUCCESS) return result;
    }
  }
  *culprit = nullptr;
  return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

void adopt(Graph& current, const Graph& updated) {
  for (size_t i = 0; i < current.nodes.size(); i++) {
    GraphNode& node = *current.nodes[i];
    if (auto* child = std::get_if<ChildWork>(&node.work))
      adopt(*child->graph, *std::get<ChildWork>(updated.nodes[i]->work).graph);
    else
      node.work = updated.nodes[i]->work;
  }
}

}  // namespace

BF_API CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
  BF_ENTER();
  return instantiate(out, graph, flags);
}

BF_API CUresult cuGraphInstantiateWithParams(CUgraphExec* out, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = instantiate(out, graph, params->flags);
  params->hErrNode_out = nullptr;
  params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
  return result;
}

BF_API CUresult cuGraphInstantiate_v2(CUgraphExec* out, CUgraph graph, CUgraphNode* error_node, char* log,
                                      size_t log_bytes) {
  BF_ENTER();
  if (error_node) *error_node = nullptr;
  if (log && log_bytes) *log = 0;
  return instantiate(out, graph, 0);
}

BF_API CUresult cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t* flags) {
  BF_ENTER();
  if (!flags) return CUDA_ERROR_INVALID_VALUE;
  GraphExecRef exec;
  BF_TRY(find_exec(handle, &exec));
  *flags = exec->flags;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphExecDestroy(CUgraphExec handle) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  GraphExecRef exec = graph_execs().remove(handle);
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  // Memory of allocation nodes must outlast launches that are under way.
  if (exec->last && !exec->last->done() && !exec->graph->memory.empty())
    Scheduler::instance().submit([graph = exec->graph] {}, {&exec->last, 1});
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphUpload(CUgraphExec handle, CUstream stream_handle) {
  BF_ENTER();
  GraphExecRef exec;
  BF_TRY(find_exec(handle, &exec));
  StreamRef stream;
  return find_stream(stream_handle, &stream);
}

BF_API CUresult cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
  BF_ENTER();
  GraphExecRef exec;
  BF_TRY(find_exec(handle, &exec));
  StreamRef stream;
  BF_TRY(find_stream(stream_handle, &stream));
  bool captured = false;
  BF_TRY(capture_child(stream, *exec, &captured));
  if (captured) return CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  std::lock_guard context_lock(stream->context->mutex);
  std::vector<OperationRef> before = stream_predecessors(*stream);
  before.push_back(exec->last);
  OperationRef entry = Scheduler::instance().submit({}, before);
  std::vector<OperationRef> ends = submit_nodes(*exec->graph, entry);
  ends.push_back(entry);
  stream->tail = exec->last = Scheduler::instance().submit({}, ends);
  return CUDA_SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------------
// changes

BF_API CUresult cuGraphExecUpdate_v2(CUgraphExec handle, CUgraph graph_handle, CUgraphExecUpdateResultInfo* info) {
  BF_ENTER();
  CUgraphExecUpdateResultInfo unasked;
  if (!info) info = &unasked;
  std::lock_guard lock(graph_mutex());
  GraphExecRef exec;
  BF_TRY(find_exec(handle, &exec));
  GraphRef graph = graphs().find(graph_handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  *info = {};
  info->result = compare(*exec->graph, *graph, &info->errorNode);
  if (info->result != CU_GRAPH_EXEC_UPDATE_SUCCESS) return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  adopt(*exec->graph, *graph);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphExecUpdate(CUgraphExec handle, CUgraph graph, CUgraphNode* error_node,
                                  CUgraphExecUpdateResult* result) {
  BF_ENTER();
  if (!result) return CUDA_ERROR_INVALID_VALUE;
  CUgraphExecUpdateResultInfo info{};
  CUresult code = cuGraphExecUpdate_v2(handle, graph, &info);
  if (error_node) *error_node = info.errorNode;
  *result = info.result;
  return code;
}

BF_API CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode handle,
                                                  const CUDA_KERNEL_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_copy(exec, handle, CU_GRAPH_NODE_TYPE_KERNEL, &node));
  Work work = node->work;
  BF_TRY(kernel_node_work(*params, &node->context, &work));
  node->work = std::move(work);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                               const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  CUDA_KERNEL_NODE_PARAMS full{};
  reinterpret_cast<CUDA_KERNEL_NODE_PARAMS_v1&>(full) = *params;
  return cuGraphExecKernelNodeSetParams_v2(exec, node, &full);
}

BF_API CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode handle, const CUDA_MEMCPY3D* params,
                                               CUcontext ctx) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_copy(exec, handle, CU_GRAPH_NODE_TYPE_MEMCPY, &node));
  return copy_node_work(*params, ctx, &node->context, &node->work);
}

BF_API CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode handle,
                                               const CUDA_MEMSET_NODE_PARAMS* params, CUcontext ctx) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_copy(exec, handle, CU_GRAPH_NODE_TYPE_MEMSET, &node));
  return memset_node_work(*params, ctx, &node->context, &node->work);
}

BF_API CUresult cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode handle,
                                             const CUDA_HOST_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_copy(exec, handle, CU_GRAPH_NODE_TYPE_HOST, &node));
  return host_node_work(*params, &node->work);
}

BF_API CUresult cuGraphExecBatchMemOpNodeSetParams(CUgraphExec exec, CUgraphNode handle,
                                                   const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_copy(exec, handle, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, &node));
  return memory_op_node_work(*params, &node->context, &node->work);
}

BF_API CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec exec, CUgraphNode handle, CUgraph child_handle) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_copy(exec, handle, CU_GRAPH_NODE_TYPE_GRAPH, &node));
  GraphRef child = graphs().find(child_handle);
  if (!child) return CUDA_ERROR_INVALID_VALUE;
  auto& current = std::get<ChildWork>(node->work);
  CUgraphNode culprit = nullptr;
  if (compare(*current.graph, *child, &culprit) != CU_GRAPH_EXEC_UPDATE_SUCCESS) return CUDA_ERROR_INVALID_VALUE;
  adopt(*current.graph, *child);
  return CUDA_SUCCESS;
}

namespace {

CUresult set_event(CUgraphExec exec, CUgraphNode handle, CUevent event_handle, bool record) {
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_copy(exec, handle, record ? CU_GRAPH_NODE_TYPE_EVENT_RECORD : CU_GRAPH_NODE_TYPE_WAIT_EVENT, &node));
  auto event = events().find(event_handle);
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  if (record)
    node->work = EventRecordWork{event};
  else
    node->work = EventWaitWork{event};
  return CUDA_SUCCESS;
}

}  // namespace

BF_API CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event) {
  BF_ENTER();
  return set_event(exec, node, event, true);
}
BF_API CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event) {
  BF_ENTER();
  return set_event(exec, node, event, false);
}

BF_API CUresult cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode handle, CUgraphNodeParams* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  if (params->type == CU_GRAPH_NODE_TYPE_GRAPH)
    return cuGraphExecChildGraphNodeSetParams(exec, handle, params->graph.graph);
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_copy(exec, handle, params->type, &node));
  Work work = node->work;
  ContextRef context = node->context;
  BF_TRY(generic_node_work(*params, &context, &work));
  node->work = std::move(work);
  node->context = std::move(context);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode handle, unsigned int enabled) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  GraphExecRef found;
  BF_TRY(find_exec(exec, &found));
  NodeRef node = copy_of(*found->graph, handle);
  if (!node) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeType type = node_type(*node);
  if (type != CU_GRAPH_NODE_TYPE_KERNEL && type != CU_GRAPH_NODE_TYPE_MEMCPY && type != CU_GRAPH_NODE_TYPE_MEMSET)
    return CUDA_ERROR_INVALID_VALUE;
  node->enabled = enabled != 0;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphNodeGetEnabled(CUgraphExec exec, CUgraphNode handle, unsigned int* enabled) {
  BF_ENTER();
  if (!enabled) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  GraphExecRef found;
  BF_TRY(find_exec(exec, &found));
  NodeRef node = copy_of(*found->graph, handle);
  if (!node) return CUDA_ERROR_INVALID_VALUE;
  *enabled = node->enabled;
  return CUDA_SUCCESS;
}

// ------------------------------------------------------------------------------------------------------- memory of
// graphs

BF_API CUresult cuDeviceGraphMemTrim(CUdevice dev) {
  BF_ENTER();
  return device_at(dev) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

BF_API CUresult cuDeviceGetGraphMemAttribute(CUdevice dev, CUgraphMem_attribute attribute, void* value) {
  BF_ENTER();
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  if (!value || unsigned(attribute) > CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH) return CUDA_ERROR_INVALID_VALUE;
  *(cuuint64_t*)value = 0;  // graphs allocate from the default pool, which counts them
  return CUDA_SUCCESS;
}

BF_API CUresult cuDeviceSetGraphMemAttribute(CUdevice dev, CUgraphMem_attribute attribute, void* value) {
  BF_ENTER();
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  bool high = attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH || attribute == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
  return value && high && *(cuuint64_t*)value == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace bf::softgpu
