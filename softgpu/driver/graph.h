// Graphs, executable graphs and stream capture. A node holds a Work, as a stream's queue does; capturing is adding a
// node instead of queueing. One lock guards all graph structure and all capture state: graphs are built rarely and
// launched often, and a launch only holds it while it reads.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "softgpu/driver/pool.h"
#include "softgpu/driver/stream.h"
#include "softgpu/driver/work.h"

namespace bf::softgpu {

struct Graph;
struct GraphNode {
  CUgraphNode handle = nullptr;
  Graph* graph = nullptr;  // that holds it; nullptr once it is destroyed
  ContextRef context;
  Work work;
  std::vector<std::shared_ptr<GraphNode>> before;
  CUgraphNode original = nullptr;  // the node this one was cloned from
  bool enabled = true;
  std::vector<void*> parameter_pointers;  // what cuGraphKernelNodeGetParams hands out
};
using NodeRef = std::shared_ptr<GraphNode>;

// Memory of an allocation node: fixed when the node is made, alive as long as any graph that holds the node.
struct GraphMemory {
  AllocationRef allocation;
  ~GraphMemory();
};

struct UserObject {
  CUuserObject handle = nullptr;
  void* pointer = nullptr;
  CUhostFn destroy = nullptr;
  uint64_t references = 0;
};

struct Graph {
  CUgraph handle = nullptr;
  bool child = false;  // of a child graph node, which owns it
  std::vector<NodeRef> nodes;
  std::vector<std::shared_ptr<GraphMemory>> memory;
  std::vector<std::pair<std::shared_ptr<UserObject>, uint64_t>> user_objects;
  ~Graph();
};
using GraphRef = std::shared_ptr<Graph>;

struct GraphExec {
  CUgraphExec handle = nullptr;
  GraphRef graph;  // a private clone
  uint64_t flags = 0;
  OperationRef last;  // the end of its latest launch: launches of one executable graph follow each other
};
using GraphExecRef = std::shared_ptr<GraphExec>;

struct Capture {
  uint64_t id = 0;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  pthread_t thread{};
  std::weak_ptr<Stream> origin;
  GraphRef graph;
  bool own_graph = true;  // made for the capture, not given by cuStreamBeginCaptureToGraph
  bool invalidated = false, ended = false;
  std::vector<std::weak_ptr<Stream>> members;
};

using GraphRegistry = Registry<CUgraph, Graph, ObjectKind::kGraph>;
using GraphNodeRegistry = Registry<CUgraphNode, GraphNode, ObjectKind::kGraphNode>;
using GraphExecRegistry = Registry<CUgraphExec, GraphExec, ObjectKind::kGraphExec>;
using UserObjectRegistry = Registry<CUuserObject, UserObject, ObjectKind::kUserObject>;
GraphRegistry& graphs();
GraphNodeRegistry& graph_nodes();
GraphExecRegistry& graph_execs();
UserObjectRegistry& user_objects();
std::recursive_mutex& graph_mutex();

inline CUresult find_graph(CUgraph handle, GraphRef* graph) {
  *graph = graphs().find(handle);
  return *graph ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// ------------------------------------------------------------------------------------- structure; graph_mutex() is
// held

CUgraphNodeType node_type(const GraphNode& node);
NodeRef add_node(Graph& graph, ContextRef context, Work work, std::vector<NodeRef> before);
// A deep copy; `visible` nodes and child graphs get handles of their own.
GraphRef clone_graph(const Graph& graph, bool visible);
void remove_node(const NodeRef& node);
void release_user_object(const std::shared_ptr<UserObject>& object, uint64_t count);
CUresult check_acyclic(const Graph& graph);
// Nodes of `graph` for an API array; 1 if one is unknown or belongs elsewhere.
CUresult find_nodes(const Graph* graph, const CUgraphNode* handles, size_t count, std::vector<NodeRef>* nodes);

// ------------------------------------------------------------------------- parameters of nodes, checked, as work

CUresult kernel_node_work(const CUDA_KERNEL_NODE_PARAMS& params, ContextRef* context, Work* work);
CUresult copy_node_work(const CUDA_MEMCPY3D& params, CUcontext handle, ContextRef* context, Work* work);
CUresult memset_node_work(const CUDA_MEMSET_NODE_PARAMS& params, CUcontext handle, ContextRef* context, Work* work);
CUresult host_node_work(const CUDA_HOST_NODE_PARAMS& params, Work* work);
CUresult memory_op_node_work(const CUDA_BATCH_MEM_OP_NODE_PARAMS& params, ContextRef* context, Work* work);
// Any kind but child graphs and allocations, from the union of cuGraphAddNode.
CUresult generic_node_work(const CUgraphNodeParams& params, ContextRef* context, Work* work);

// ---------------------------------------------------------------------------------------------------------------
// capture

bool is_capturing(Stream& stream);
// 900 while the stream captures (which breaks the capture): for calls that would have to wait.
CUresult check_stream_not_capturing(Stream& stream);
// 906 where a blocking stream captures: for calls that use the legacy stream without saying so.
CUresult refuse_implicit_capture();
void invalidate_capture(Capture& capture);
void abandon_capture(Stream& stream);
// Each sets *captured if the stream captures and the call has become part of the graph.
CUresult capture_work(const StreamRef& stream, Work& work, Delivery delivery, bool* captured);
CUresult capture_event_record(const StreamRef& stream, const std::shared_ptr<Event>& event, uint32_t flags,
                              bool* captured);
CUresult capture_event_wait(const StreamRef& stream, const std::shared_ptr<Event>& event, uint32_t flags,
                            bool* captured);
CUresult capture_allocation(const StreamRef& stream, const MemoryPoolRef& pool, size_t bytes, CUdeviceptr* out,
                            bool* captured);
CUresult capture_free(const StreamRef& stream, CUdeviceptr address, bool* captured);
CUresult capture_child(const StreamRef& stream, const GraphExec& exec, bool* captured);
// Makes the memory of an allocation node.
CUresult make_graph_memory(Graph& graph, Context& context, const MemoryPoolRef& pool, size_t bytes, CUdeviceptr* out);

}  // namespace bf::softgpu
