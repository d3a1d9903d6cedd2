#include "softgpu/driver/graph.h"

#include <algorithm>
#include <cstdio>
#include <unordered_map>
#include <unordered_set>

#include "proto/abi/graph_dot.h"
#include "softgpu/driver/driver.h"

namespace bf::softgpu {

GraphRegistry& graphs() {
  static GraphRegistry* registry = new GraphRegistry;
  return *registry;
}
GraphNodeRegistry& graph_nodes() {
  static GraphNodeRegistry* registry = new GraphNodeRegistry;
  return *registry;
}
GraphExecRegistry& graph_execs() {
  static GraphExecRegistry* registry = new GraphExecRegistry;
  return *registry;
}
UserObjectRegistry& user_objects() {
  static UserObjectRegistry* registry = new UserObjectRegistry;
  return *registry;
}
std::recursive_mutex& graph_mutex() {
  static std::recursive_mutex* mutex = new std::recursive_mutex;
  return *mutex;
}

GraphMemory::~GraphMemory() {
  if (AddressSpace::instance().remove(allocation->begin, [&](const Allocation& a) { return &a == allocation.get(); })) {
    forget_pool_bytes(*allocation);
    release_memory(*allocation);
  }
}

Graph::~Graph() {
  for (auto& [object, count] : user_objects) release_user_object(object, count);
}

void release_user_object(const std::shared_ptr<UserObject>& object, uint64_t count) {
  object->references -= std::min(count, object->references);
  if (object->references) return;
  user_objects().remove(object->handle);
  if (object->destroy) std::exchange(object->destroy, nullptr)(object->pointer);
}

CUgraphNodeType node_type(const GraphNode& node) {
  struct {
    CUgraphNodeType operator()(const KernelWork&) { return CU_GRAPH_NODE_TYPE_KERNEL; }
    CUgraphNodeType operator()(const CopyWork&) { return CU_GRAPH_NODE_TYPE_MEMCPY; }
    CUgraphNodeType operator()(const MemsetWork&) { return CU_GRAPH_NODE_TYPE_MEMSET; }
    CUgraphNodeType operator()(const HostWork&) { return CU_GRAPH_NODE_TYPE_HOST; }
    CUgraphNodeType operator()(const CallbackWork&) { return CU_GRAPH_NODE_TYPE_HOST; }
    CUgraphNodeType operator()(const MemoryOpWork&) { return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP; }
    CUgraphNodeType operator()(const EmptyWork&) { return CU_GRAPH_NODE_TYPE_EMPTY; }
    CUgraphNodeType operator()(const EventRecordWork&) { return CU_GRAPH_NODE_TYPE_EVENT_RECORD; }
    CUgraphNodeType operator()(const EventWaitWork&) { return CU_GRAPH_NODE_TYPE_WAIT_EVENT; }
    CUgraphNodeType operator()(const ChildWork&) { return CU_GRAPH_NODE_TYPE_GRAPH; }
    CUgraphNodeType operator()(const AllocWork&) { return CU_GRAPH_NODE_TYPE_MEM_ALLOC; }
    CUgraphNodeType operator()(const FreeWork&) { return CU_GRAPH_NODE_TYPE_MEM_FREE; }
  } visitor;
  return std::visit(visitor, node.work);
}

NodeRef add_node(Graph& graph, ContextRef context, Work work, std::vector<NodeRef> before) {
  auto node = std::make_shared<GraphNode>();
  node->graph = &graph;
  node->context = std::move(context);
  node->work = std::move(work);
  node->before = std::move(before);
  graph_nodes().add(node);
  graph.nodes.push_back(node);
  return node;
}

GraphRef clone_graph(const Graph& graph, bool visible) {
  auto clone = std::make_shared<Graph>();
  std::unordered_map<const GraphNode*, NodeRef> copies;
  for (const NodeRef& node : graph.nodes) {
    auto copy = std::make_shared<GraphNode>(*node);
    copy->graph = clone.get();
    copy->original = node->handle;
    copy->parameter_pointers.clear();
    if (auto* child = std::get_if<ChildWork>(&copy->work)) {
      child->graph = clone_graph(*child->graph, visible);
      child->graph->child = true;
    }
    if (visible) graph_nodes().add(copy);
    copies[node.get()] = copy;
    clone->nodes.push_back(std::move(copy));
  }
  for (const NodeRef& node : clone->nodes)
    for (NodeRef& before : node->before) before = copies[before.get()];
  clone->memory = graph.memory;
  clone->user_objects = graph.user_objects;
  for (auto& [object, count] : clone->user_objects) object->references += count;
  if (visible) graphs().add(clone);
  return clone;
}

namespace {

void forget_graph(Graph& graph) {
  for (const NodeRef& node : graph.nodes) {
    graph_nodes().remove(node->handle);
    if (auto* child = std::get_if<ChildWork>(&node->work)) forget_graph(*child->graph);
    node->graph = nullptr;
    node->before.clear();
  }
  graphs().remove(graph.handle);
}

CUresult find_node(CUgraphNode handle, NodeRef* node) {
  *node = graph_nodes().find(handle);
  return *node && (*node)->graph ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// The API's way to return a list: NULL asks for the count; too much room is filled with NULLs.
CUresult put_nodes(const std::vector<CUgraphNode>& found, CUgraphNode* out, size_t* count) {
  if (!count) return CUDA_ERROR_INVALID_VALUE;
  if (out)
    for (size_t i = 0; i < *count; i++) out[i] = i < found.size() ? found[i] : nullptr;
  *count = out ? std::min(*count, found.size()) : found.size();
  return CUDA_SUCCESS;
}

}  // namespace

void remove_node(const NodeRef& node) {
  Graph& graph = *node->graph;
  std::erase(graph.nodes, node);
  for (const NodeRef& other : graph.nodes) std::erase(other->before, node);
  graph_nodes().remove(node->handle);
  if (auto* child = std::get_if<ChildWork>(&node->work)) forget_graph(*child->graph);
  node->graph = nullptr;
  node->before.clear();
}

CUresult find_nodes(const Graph* graph, const CUgraphNode* handles, size_t count, std::vector<NodeRef>* nodes) {
  if (count && !handles) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++) {
    NodeRef node;
    BF_TRY(find_node(handles[i], &node));
    if (graph && node->graph != graph) return CUDA_ERROR_INVALID_VALUE;
    if (std::find(nodes->begin(), nodes->end(), node) != nodes->end()) return CUDA_ERROR_INVALID_VALUE;
    nodes->push_back(std::move(node));
  }
  return CUDA_SUCCESS;
}

// Repeatedly takes nodes whose predecessors are all taken.
CUresult check_acyclic(const Graph& graph) {
  std::unordered_set<const GraphNode*> taken;
  for (bool progress = true; progress;) {
    progress = false;
    for (const NodeRef& node : graph.nodes) {
      if (taken.count(node.get())) continue;
      bool free =
          std::all_of(node->before.begin(), node->before.end(), [&](const NodeRef& b) { return taken.count(b.get()); });
      if (free) taken.insert(node.get()), progress = true;
    }
  }
  return taken.size() == graph.nodes.size() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// ------------------------------------------------------------------------------------------------- whole graphs and
// edges

BF_API CUresult cuGraphCreate(CUgraph* out, unsigned int flags) {
  BF_ENTER();
  if (!out || flags) return CUDA_ERROR_INVALID_VALUE;
  *out = graphs().add(std::make_shared<Graph>());
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphDestroy(CUgraph handle) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(handle, &graph));
  if (graph->child) return CUDA_ERROR_INVALID_VALUE;
  forget_graph(*graph);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphClone(CUgraph* out, CUgraph handle) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(handle, &graph));
  if (!graph->memory.empty()) return CUDA_ERROR_NOT_SUPPORTED;  // documented: no clones of graphs that allocate
  *out = clone_graph(*graph, true)->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphNodeFindInClone(CUgraphNode* out, CUgraphNode original, CUgraph clone_handle) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  GraphRef clone;
  BF_TRY(find_graph(clone_handle, &clone));
  for (const NodeRef& node : clone->nodes) {
    if (node->original != original) continue;
    *out = node->handle;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

BF_API CUresult cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType* type) {
  BF_ENTER();
  if (!type) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_node(handle, &node));
  *type = node_type(*node);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphGetNodes(CUgraph handle, CUgraphNode* nodes, size_t* count) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(handle, &graph));
  std::vector<CUgraphNode> found;
  for (const NodeRef& node : graph->nodes) found.push_back(node->handle);
  return put_nodes(found, nodes, count);
}

BF_API CUresult cuGraphGetRootNodes(CUgraph handle, CUgraphNode* nodes, size_t* count) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(handle, &graph));
  std::vector<CUgraphNode> found;
  for (const NodeRef& node : graph->nodes)
    if (node->before.empty()) found.push_back(node->handle);
  return put_nodes(found, nodes, count);
}

BF_API CUresult cuGraphGetEdges_v2(CUgraph handle, CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* data,
                                   size_t* count) {
  BF_ENTER();
  if (!count || !from != !to) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(handle, &graph));
  size_t found = 0;
  for (const NodeRef& node : graph->nodes) {
    for (const NodeRef& before : node->before) {
      if (from && found < *count) {
        from[found] = before->handle;
        to[found] = node->handle;
        if (data) data[found] = {};
      }
      found++;
    }
  }
  for (size_t i = found; from && i < *count; i++) from[i] = to[i] = nullptr;
  *count = from ? std::min(*count, found) : found;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphGetEdges(CUgraph handle, CUgraphNode* from, CUgraphNode* to, size_t* count) {
  BF_ENTER();
  return cuGraphGetEdges_v2(handle, from, to, nullptr, count);
}

BF_API CUresult cuGraphNodeGetDependencies_v2(CUgraphNode handle, CUgraphNode* nodes, CUgraphEdgeData* data,
                                              size_t* count) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_node(handle, &node));
  std::vector<CUgraphNode> found;
  for (const NodeRef& before : node->before) found.push_back(before->handle);
  BF_TRY(put_nodes(found, nodes, count));
  for (size_t i = 0; data && nodes && i < *count; i++) data[i] = {};
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphNodeGetDependencies(CUgraphNode handle, CUgraphNode* nodes, size_t* count) {
  BF_ENTER();
  return cuGraphNodeGetDependencies_v2(handle, nodes, nullptr, count);
}

BF_API CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode handle, CUgraphNode* nodes, CUgraphEdgeData* data,
                                                size_t* count) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_node(handle, &node));
  std::vector<CUgraphNode> found;
  for (const NodeRef& other : node->graph->nodes)
    if (std::find(other->before.begin(), other->before.end(), node) != other->before.end())
      found.push_back(other->handle);
  BF_TRY(put_nodes(found, nodes, count));
  for (size_t i = 0; data && nodes && i < *count; i++) data[i] = {};
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphNodeGetDependentNodes(CUgraphNode handle, CUgraphNode* nodes, size_t* count) {
  BF_ENTER();
  return cuGraphNodeGetDependentNodes_v2(handle, nodes, nullptr, count);
}

BF_API CUresult cuGraphAddDependencies_v2(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                                          const CUgraphEdgeData*, size_t count) {
  BF_ENTER();
  if (count && (!from || !to)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(handle, &graph));
  std::vector<std::pair<NodeRef, NodeRef>> edges;
  for (size_t i = 0; i < count; i++) {
    NodeRef a, b;
    BF_TRY(find_node(from[i], &a));
    BF_TRY(find_node(to[i], &b));
    if (a->graph != graph.get() || b->graph != graph.get() || a == b) return CUDA_ERROR_INVALID_VALUE;
    if (std::find(b->before.begin(), b->before.end(), a) != b->before.end()) return CUDA_ERROR_INVALID_VALUE;
    edges.emplace_back(std::move(a), std::move(b));
  }
  for (auto& [a, b] : edges) b->before.push_back(a);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphAddDependencies(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to, size_t count) {
  BF_ENTER();
  return cuGraphAddDependencies_v2(handle, from, to, nullptr, count);
}

BF_API CUresult cuGraphRemoveDependencies_v2(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                                             const CUgraphEdgeData*, size_t count) {
  BF_ENTER();
  if (count && (!from || !to)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(handle, &graph));
  for (size_t i = 0; i < count; i++) {
    NodeRef a, b;
    BF_TRY(find_node(from[i], &a));
    BF_TRY(find_node(to[i], &b));
    if (b->graph != graph.get() || !std::erase(b->before, a)) return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphRemoveDependencies(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                                          size_t count) {
  BF_ENTER();
  return cuGraphRemoveDependencies_v2(handle, from, to, nullptr, count);
}

BF_API CUresult cuGraphDestroyNode(CUgraphNode handle) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  BF_TRY(find_node(handle, &node));
  remove_node(node);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphDebugDotPrint(CUgraph handle, const char* path, unsigned int flags) {
  BF_ENTER();
  const abi::GraphQuestions ask{cuGraphGetNodes,
                                cuGraphGetEdges_v2,
                                cuGraphNodeGetType,
                                cuGraphChildGraphNodeGetGraph,
                                cuGraphKernelNodeGetParams_v2,
                                cuGraphMemcpyNodeGetParams,
                                cuGraphMemsetNodeGetParams,
                                cuFuncGetName};
  return abi::print_graph(ask, handle, path, flags);
}

// ---------------------------------------------------------------------------------------------------------- user
// objects

BF_API CUresult cuUserObjectCreate(CUuserObject* out, void* pointer, CUhostFn destroy, unsigned int references,
                                   unsigned int flags) {
  BF_ENTER();
  if (!out || !destroy || references == 0 || references > 0x7fffffff || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
    return CUDA_ERROR_INVALID_VALUE;
  auto object = std::make_shared<UserObject>();
  object->pointer = pointer;
  object->destroy = destroy;
  object->references = references;
  *out = user_objects().add(std::move(object));
  return CUDA_SUCCESS;
}

BF_API CUresult cuUserObjectRetain(CUuserObject handle, unsigned int count) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  auto object = user_objects().find(handle);
  if (!object || count == 0) return CUDA_ERROR_INVALID_VALUE;
  object->references += count;
  return CUDA_SUCCESS;
}

BF_API CUresult cuUserObjectRelease(CUuserObject handle, unsigned int count) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  auto object = user_objects().find(handle);
  if (!object || count == 0 || count > object->references) return CUDA_ERROR_INVALID_VALUE;
  release_user_object(object, count);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphRetainUserObject(CUgraph graph_handle, CUuserObject handle, unsigned int count,
                                        unsigned int flags) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(graph_handle, &graph));
  auto object = user_objects().find(handle);
  if (!object || count == 0 || flags > CU_GRAPH_USER_OBJECT_MOVE) return CUDA_ERROR_INVALID_VALUE;
  if (!(flags & CU_GRAPH_USER_OBJECT_MOVE)) object->references += count;
  graph->user_objects.emplace_back(object, count);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphReleaseUserObject(CUgraph graph_handle, CUuserObject handle, unsigned int count) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(graph_handle, &graph));
  for (auto it = graph->user_objects.begin(); it != graph->user_objects.end(); ++it) {
    if (it->first->handle != handle || it->second < count) continue;
    auto object = it->first;
    it->second -= count;
    if (it->second == 0) graph->user_objects.erase(it);
    release_user_object(object, count);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

}  // namespace bf::softgpu
