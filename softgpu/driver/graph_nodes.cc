// Nodes: parameters in both directions, and making them.
#include <algorithm>
#include <cstring>

#include "softgpu/driver/copy.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/graph.h"
#include "softgpu/driver/launch.h"

namespace bf::softgpu {

CUresult kernel_node_work(const CUDA_KERNEL_NODE_PARAMS& p, ContextRef* context, Work* work) {
  FunctionRef function;
  if (p.func) {
    BF_TRY(current_context(context));
    BF_TRY(find_function(p.func, *context, &function));
  } else {
    BF_TRY(find_context(p.ctx, context));
    BF_TRY(find_function(CUfunction(p.kern), *context, &function));
  }
  *context = function->context;
  LaunchShape shape{{p.gridDimX, p.gridDimY, p.gridDimZ}, {p.blockDimX, p.blockDimY, p.blockDimZ}, p.sharedMemBytes};
  KernelWork kernel;
  if (auto* old = std::get_if<KernelWork>(work)) {  // attributes outlive a change of parameters
    kernel.attributes = old->attributes;
    shape.cooperative = old->grid.cooperative;
  }
  BF_TRY(make_kernel_work(std::move(function), shape, p.kernelParams, p.extra, &kernel));
  *work = std::move(kernel);
  return CUDA_SUCCESS;
}

CUresult copy_node_work(const CUDA_MEMCPY3D& params, CUcontext handle, ContextRef* context, Work* work) {
  BF_TRY(find_context(handle, context));
  ResolvedCopy copy;
  BF_TRY(resolve_copy(params, &copy));
  *work = std::move(copy.work);
  return CUDA_SUCCESS;
}

CUresult memset_node_work(const CUDA_MEMSET_NODE_PARAMS& params, CUcontext handle, ContextRef* context, Work* work) {
  BF_TRY(find_context(handle, context));
  if (params.width == 0 || params.height == 0) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(check_memset(params));
  *work = MemsetWork{params};
  return CUDA_SUCCESS;
}

CUresult host_node_work(const CUDA_HOST_NODE_PARAMS& params, Work* work) {
  if (!params.fn) return CUDA_ERROR_INVALID_VALUE;
  *work = HostWork{params.fn, params.userData};
  return CUDA_SUCCESS;
}

CUresult memory_op_node_work(const CUDA_BATCH_MEM_OP_NODE_PARAMS& params, ContextRef* context, Work* work) {
  BF_TRY(find_context(params.ctx, context));
  if (params.count > 256 || (params.count && !params.paramArray) || params.flags) return CUDA_ERROR_INVALID_VALUE;
  MemoryOpWork operations;
  for (unsigned i = 0; i < params.count; i++) {
    BF_TRY(check_memory_operation(params.paramArray[i]));
    operations.operations.push_back(params.paramArray[i]);
  }
  *work = std::move(operations);
  return CUDA_SUCCESS;
}

namespace {

CUresult event_work(CUevent handle, bool record, Work* work) {
  if (!handle) return CUDA_ERROR_INVALID_VALUE;
  auto event = events().find(handle);
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  if (record)
    *work = EventRecordWork{event};
  else
    *work = EventWaitWork{event};
  return CUDA_SUCCESS;
}

// A node of the kind that `T` holds.
template <typename T>
CUresult find_node(CUgraphNode handle, NodeRef* node, T** work) {
  *node = graph_nodes().find(handle);
  if (!*node || !(*node)->graph) return CUDA_ERROR_INVALID_VALUE;
  *work = std::get_if<T>(&(*node)->work);
  return *work ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult add(CUgraphNode* out, CUgraph graph_handle, const CUgraphNode* dependencies, size_t count, ContextRef context,
             Work work) {
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  GraphRef graph;
  BF_TRY(find_graph(graph_handle, &graph));
  std::vector<NodeRef> before;
  BF_TRY(find_nodes(graph.get(), dependencies, count, &before));
  if (!context) context = current_or_null();
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  *out = add_node(*graph, std::move(context), std::move(work), std::move(before))->handle;
  return CUDA_SUCCESS;
}

}  // namespace

CUresult generic_node_work(const CUgraphNodeParams& params, ContextRef* context, Work* work) {
  switch (params.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return kernel_node_work(reinterpret_cast<const CUDA_KERNEL_NODE_PARAMS&>(params.kernel), context, work);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return copy_node_work(params.memcpy.copyParams, params.memcpy.copyCtx, context, work);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return memset_node_work(reinterpret_cast<const CUDA_MEMSET_NODE_PARAMS&>(params.memset), params.memset.ctx,
                              context, work);
    case CU_GRAPH_NODE_TYPE_HOST:
      return host_node_work(reinterpret_cast<const CUDA_HOST_NODE_PARAMS&>(params.host), work);
    case CU_GRAPH_NODE_TYPE_EMPTY:
      *work = EmptyWork{};
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return event_work(params.eventWait.event, false, work);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return event_work(params.eventRecord.event, true, work);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      return memory_op_node_work(reinterpret_cast<const CUDA_BATCH_MEM_OP_NODE_PARAMS&>(params.memOp), context, work);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      *work = FreeWork{params.free.dptr};
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
      return CUDA_ERROR_NOT_SUPPORTED;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult make_graph_memory(Graph& graph, Context& context, const MemoryPoolRef& pool, size_t bytes, CUdeviceptr* out) {
  AllocationRef allocation = allocate_from_pool(context, pool, bytes);
  if (!allocation) return CUDA_ERROR_OUT_OF_MEMORY;
  allocation->graph_owned = true;
  auto memory = std::make_shared<GraphMemory>();
  memory->allocation = allocation;
  graph.memory.push_back(std::move(memory));
  *out = allocation->begin;
  return CUDA_SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------------
// kernels

BF_API CUresult cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                        const CUDA_KERNEL_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  ContextRef context;
  Work work;
  BF_TRY(kernel_node_work(*params, &context, &work));
  return add(out, graph, dependencies, count, std::move(context), std::move(work));
}

namespace {

CUDA_KERNEL_NODE_PARAMS upgraded(const CUDA_KERNEL_NODE_PARAMS_v1& old) {
  CUDA_KERNEL_NODE_PARAMS params{};
  memcpy(&params, &old, sizeof old);
  return params;
}

}  // namespace

BF_API CUresult cuGraphAddKernelNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                     const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  CUDA_KERNEL_NODE_PARAMS full = upgraded(*params);
  return cuGraphAddKernelNode_v2(out, graph, dependencies, count, &full);
}

BF_API CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode handle, CUDA_KERNEL_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  KernelWork* kernel;
  BF_TRY(find_node(handle, &node, &kernel));
  const ptx::Grid& g = kernel->grid;
  *params = {kernel->function->handle,
             g.grid.x,
             g.grid.y,
             g.grid.z,
             g.block.x,
             g.block.y,
             g.block.z,
             g.dynamic_shared_bytes,
             nullptr,
             nullptr,
             kernel->function->kernel,
             node->context->handle};
  node->parameter_pointers.clear();
  for (const ptx::KernelParam& p : kernel->function->info->params)
    node->parameter_pointers.push_back(kernel->arguments.data() + p.offset);
  params->kernelParams = node->parameter_pointers.data();
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphKernelNodeGetParams(CUgraphNode handle, CUDA_KERNEL_NODE_PARAMS_v1* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  CUDA_KERNEL_NODE_PARAMS full;
  BF_TRY(cuGraphKernelNodeGetParams_v2(handle, &full));
  memcpy(params, &full, sizeof *params);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode handle, const CUDA_KERNEL_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  KernelWork* kernel;
  BF_TRY(find_node(handle, &node, &kernel));
  // The new parameters may well point into the old ones, as cuGraphKernelNodeGetParams gave them out.
  Work work = node->work;
  BF_TRY(kernel_node_work(*params, &node->context, &work));
  node->work = std::move(work);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphKernelNodeSetParams(CUgraphNode handle, const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  CUDA_KERNEL_NODE_PARAMS full = upgraded(*params);
  return cuGraphKernelNodeSetParams_v2(handle, &full);
}

BF_API CUresult cuGraphKernelNodeSetAttribute(CUgraphNode handle, CUkernelNodeAttrID id,
                                              const CUkernelNodeAttrValue* value) {
  BF_ENTER();
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  KernelWork* kernel;
  BF_TRY(find_node(handle, &node, &kernel));
  if (id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
    LaunchShape shape{kernel->grid.grid, kernel->grid.block, kernel->grid.dynamic_shared_bytes,
                      value->cooperative != 0};
    BF_TRY(check_launch(*kernel->function, shape));
    kernel->grid.cooperative = shape.cooperative;
  }
  std::erase_if(kernel->attributes, [&](const CUlaunchAttribute& a) { return a.id == id; });
  CUlaunchAttribute attribute{};
  attribute.id = id;
  attribute.value = *value;
  kernel->attributes.push_back(attribute);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphKernelNodeGetAttribute(CUgraphNode handle, CUkernelNodeAttrID id, CUkernelNodeAttrValue* value) {
  BF_ENTER();
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  KernelWork* kernel;
  BF_TRY(find_node(handle, &node, &kernel));
  memset(value, 0, sizeof *value);
  if (id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) value->cooperative = kernel->grid.cooperative;
  for (const CUlaunchAttribute& attribute : kernel->attributes)
    if (attribute.id == id) *value = attribute.value;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphKernelNodeCopyAttributes(CUgraphNode destination, CUgraphNode source) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  NodeRef from_node, to_node;
  KernelWork *from, *to;
  BF_TRY(find_node(source, &from_node, &from));
  BF_TRY(find_node(destination, &to_node, &to));
  to->attributes = from->attributes;
  to->grid.cooperative = from->grid.cooperative;
  return CUDA_SUCCESS;
}

// -------------------------------------------------------------------------------------------- copies, sets, host
// functions

BF_API CUresult cuGraphAddMemcpyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                     const CUDA_MEMCPY3D* params, CUcontext handle) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  ContextRef context;
  Work work;
  BF_TRY(copy_node_work(*params, handle, &context, &work));
  return add(out, graph, dependencies, count, std::move(context), std::move(work));
}

BF_API CUresult cuGraphMemcpyNodeGetParams(CUgraphNode handle, CUDA_MEMCPY3D* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  CopyWork* copy;
  BF_TRY(find_node(handle, &node, &copy));
  *params = copy->description;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphMemcpyNodeSetParams(CUgraphNode handle, const CUDA_MEMCPY3D* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  CopyWork* copy;
  BF_TRY(find_node(handle, &node, &copy));
  return copy_node_work(*params, node->context->handle, &node->context, &node->work);
}

BF_API CUresult cuGraphAddMemsetNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                     const CUDA_MEMSET_NODE_PARAMS* params, CUcontext handle) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  ContextRef context;
  Work work;
  BF_TRY(memset_node_work(*params, handle, &context, &work));
  return add(out, graph, dependencies, count, std::move(context), std::move(work));
}

BF_API CUresult cuGraphMemsetNodeGetParams(CUgraphNode handle, CUDA_MEMSET_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  MemsetWork* set;
  BF_TRY(find_node(handle, &node, &set));
  *params = set->params;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphMemsetNodeSetParams(CUgraphNode handle, const CUDA_MEMSET_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  MemsetWork* set;
  BF_TRY(find_node(handle, &node, &set));
  return memset_node_work(*params, node->context->handle, &node->context, &node->work);
}

BF_API CUresult cuGraphAddHostNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                   const CUDA_HOST_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  Work work;
  BF_TRY(host_node_work(*params, &work));
  return add(out, graph, dependencies, count, nullptr, std::move(work));
}

BF_API CUresult cuGraphHostNodeGetParams(CUgraphNode handle, CUDA_HOST_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  HostWork* host;
  BF_TRY(find_node(handle, &node, &host));
  *params = {host->function, host->user_data};
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphHostNodeSetParams(CUgraphNode handle, const CUDA_HOST_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  HostWork* host;
  BF_TRY(find_node(handle, &node, &host));
  return host_node_work(*params, &node->work);
}

// ------------------------------------------------------------------------------------------- child graphs, empties,
// events

BF_API CUresult cuGraphAddChildGraphNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                         CUgraph child_handle) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  GraphRef child;
  BF_TRY(find_graph(child_handle, &child));
  if (!child->memory.empty()) return CUDA_ERROR_NOT_SUPPORTED;
  GraphRef copy = clone_graph(*child, true);
  copy->child = true;
  return add(out, graph, dependencies, count, nullptr, ChildWork{std::move(copy)});
}

BF_API CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode handle, CUgraph* out) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  ChildWork* child;
  BF_TRY(find_node(handle, &node, &child));
  *out = child->graph->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphAddEmptyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  return add(out, graph, dependencies, count, nullptr, EmptyWork{});
}

BF_API CUresult cuGraphAddEventRecordNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                                          size_t count, CUevent event) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  Work work;
  BF_TRY(event_work(event, true, &work));
  return add(out, graph, dependencies, count, nullptr, std::move(work));
}

BF_API CUresult cuGraphAddEventWaitNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                        CUevent event) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  Work work;
  BF_TRY(event_work(event, false, &work));
  return add(out, graph, dependencies, count, nullptr, std::move(work));
}

BF_API CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode handle, CUevent* out) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  EventRecordWork* work;
  BF_TRY(find_node(handle, &node, &work));
  *out = work->event->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode handle, CUevent event) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  EventRecordWork* work;
  BF_TRY(find_node(handle, &node, &work));
  return event_work(event, true, &node->work);
}

BF_API CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode handle, CUevent* out) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  EventWaitWork* work;
  BF_TRY(find_node(handle, &node, &work));
  *out = work->event->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode handle, CUevent event) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  EventWaitWork* work;
  BF_TRY(find_node(handle, &node, &work));
  return event_work(event, false, &node->work);
}

// ------------------------------------------------------------------------------------------ memory operations,
// allocations

BF_API CUresult cuGraphAddBatchMemOpNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                         const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  ContextRef context;
  Work work;
  BF_TRY(memory_op_node_work(*params, &context, &work));
  return add(out, graph, dependencies, count, std::move(context), std::move(work));
}

BF_API CUresult cuGraphBatchMemOpNodeGetParams(CUgraphNode handle, CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  MemoryOpWork* work;
  BF_TRY(find_node(handle, &node, &work));
  *params = {node->context->handle, unsigned(work->operations.size()), work->operations.data(), work->flags};
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphBatchMemOpNodeSetParams(CUgraphNode handle, const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  MemoryOpWork* work;
  BF_TRY(find_node(handle, &node, &work));
  Work changed;
  BF_TRY(memory_op_node_work(*params, &node->context, &changed));
  node->work = std::move(changed);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphAddMemAllocNode(CUgraphNode* out, CUgraph graph_handle, const CUgraphNode* dependencies,
                                       size_t count, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params || params->bytesize == 0 || params->poolProps.allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
      params->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    return CUDA_ERROR_INVALID_VALUE;
  Device* device = device_at(params->poolProps.location.id);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  std::lock_guard lock(graph_mutex());
  GraphRef graph;
  BF_TRY(find_graph(graph_handle, &graph));
  ContextRef context;
  BF_TRY(current_context(&context));
  BF_TRY(make_graph_memory(*graph, *context, device->default_pool, params->bytesize, &params->dptr));
  AllocWork work;
  work.params = *params;
  if (params->accessDescs) work.access.assign(params->accessDescs, params->accessDescs + params->accessDescCount);
  return add(out, graph_handle, dependencies, count, context, std::move(work));
}

BF_API CUresult cuGraphMemAllocNodeGetParams(CUgraphNode handle, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  AllocWork* work;
  BF_TRY(find_node(handle, &node, &work));
  *params = work->params;
  params->accessDescs = work->access.data();
  return CUDA_SUCCESS;
}

BF_API CUresult cuGraphAddMemFreeNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                                      CUdeviceptr address) {
  BF_ENTER();
  std::lock_guard lock(graph_mutex());
  AllocationRef allocation = AddressSpace::instance().find(address);
  if (!allocation || allocation->begin != address || allocation->kind != MemoryKind::kPool)
    return CUDA_ERROR_INVALID_VALUE;
  return add(out, graph, dependencies, count, nullptr, FreeWork{address});
}

BF_API CUresult cuGraphMemFreeNodeGetParams(CUgraphNode handle, CUdeviceptr* address) {
  BF_ENTER();
  if (!address) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node;
  FreeWork* work;
  BF_TRY(find_node(handle, &node, &work));
  *address = work->address;
  return CUDA_SUCCESS;
}

// ------------------------------------------------------------------------------------------------------- the generic
// forms

BF_API CUresult cuGraphAddNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                                  const CUgraphEdgeData*, size_t count, CUgraphNodeParams* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  if (params->type == CU_GRAPH_NODE_TYPE_GRAPH)
    return cuGraphAddChildGraphNode(out, graph, dependencies, count, params->graph.graph);
  if (params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
    return cuGraphAddMemAllocNode(out, graph, dependencies, count,
                                  reinterpret_cast<CUDA_MEM_ALLOC_NODE_PARAMS*>(&params->alloc));
  std::lock_guard lock(graph_mutex());
  ContextRef context;
  Work work;
  BF_TRY(generic_node_work(*params, &context, &work));
  return add(out, graph, dependencies, count, std::move(context), std::move(work));
}

BF_API CUresult cuGraphAddNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, size_t count,
                               CUgraphNodeParams* params) {
  BF_ENTER();
  return cuGraphAddNode_v2(out, graph, dependencies, nullptr, count, params);
}

BF_API CUresult cuGraphNodeSetParams(CUgraphNode handle, CUgraphNodeParams* params) {
  BF_ENTER();
  if (!params) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  NodeRef node = graph_nodes().find(handle);
  if (!node || !node->graph || node_type(*node) != params->type) return CUDA_ERROR_INVALID_VALUE;
  Work work = node->work;
  ContextRef context = node->context;
  BF_TRY(generic_node_work(*params, &context, &work));
  node->work = std::move(work);
  node->context = std::move(context);
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
