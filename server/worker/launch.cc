// Launches, and the parts of capture and graphs that need more than the driver's call.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "proto/api/launch_attributes.h"
#include "server/worker/session.h"

namespace bf::server {
namespace {

// Device code that launches graphs follows the driver's own value of one, so that takes the place of the program's. Valid
// until this thread's next.
std::span<const std::byte> for_device(const Session& session, std::span<const std::byte> packed) {
  if (!session.graphs.have_device_launch()) [[likely]] return packed;
  thread_local std::vector<std::byte> copy;
  copy.assign(packed.begin(), packed.end());
  for (size_t at = 0; at + sizeof(uint64_t) <= copy.size(); at += sizeof(uint64_t)) {
    uint64_t value, real;
    std::memcpy(&value, &copy[at], sizeof value);
    if (session.handles.resolve(HandleKind::kGraphExec, value, real)) std::memcpy(&copy[at], &real, sizeof real);
  }
  return copy;
}

// The packed parameters in the form that the driver takes: one pointer per parameter. The driver's own packed form
// (`extra`) serves only functions whose parameters it does not tell: with a size that is no multiple of 8 it was seen
// to refuse launches (a single int; driver 580.159.04).
class Params {
 public:
  Params(Call& call, CUfunction function, std::span<const std::byte> given)
      : Params(session_of(call).functions, function, for_device(session_of(call), given)) {}
  // False: not what the function takes.
  bool fit() const { return fits_; }
  void** list() { return list_; }
  void** extra() { return use_extra_ ? extra_ : nullptr; }

 private:
  Params(const Functions& functions, CUfunction function, std::span<const std::byte> packed)
      : bytes_(packed.size()),
        extra_{CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<std::byte*>(packed.data()), CU_LAUNCH_PARAM_BUFFER_SIZE,
               &bytes_, CU_LAUNCH_PARAM_END} {
    thread_local std::vector<void*> pointers;  // of this twin: no allocation per launch
    pointers.clear();
    fits_ = functions.spread(function, packed, pointers);
    if (fits_)
      list_ = pointers.empty() ? nullptr : pointers.data();
    else if ((fits_ = functions.accepts(function, packed.size())))
      use_extra_ = bytes_ > 0;
  }

  size_t bytes_;
  void* extra_[5];
  void** list_ = nullptr;
  bool fits_ = false;
  bool use_extra_ = false;
};

// A launch that the shim thought good and the driver refused: a difference between the two that must be found.
CUresult note_refusal(Call& call, CUfunction f, const unsigned (&shape)[7], size_t param_bytes, CUresult result) {
  if (result == CUDA_SUCCESS || !log_enabled(LogLevel::kDebug)) return result;
  const char* name = nullptr;
  if (call.driver.cuFuncGetName(&name, f) != CUDA_SUCCESS) call.driver.cuKernelGetName(&name, reinterpret_cast<CUkernel>(f));
  BF_DEBUG("the driver refused a launch with {}: {} grid {}x{}x{} block {}x{}x{} dynamic shared memory {}, {} parameter bytes",
           int(result), name ? name : "?", shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], param_bytes);
  return result;
}

// The values of what dies with a graph: its nodes, its child graphs and theirs. The driver may give a dead node's address
// to the next one, which a stale value must not reach. Collected before the driver destroys, erased after: an address
// that another thread gets in between has a value of its own.
class Dying {
 public:
  explicit Dying(Call& call) : call_(call) {}
  void add_graph(CUgraph graph) {
    std::vector<CUgraph> graphs{graph};
    while (!graphs.empty()) {
      const CUgraph next = graphs.back();
      graphs.pop_back();
      size_t count = 0;
      if (call_.driver.cuGraphGetNodes(next, nullptr, &count) != CUDA_SUCCESS || count == 0) continue;
      std::vector<CUgraphNode> nodes(count);
      if (call_.driver.cuGraphGetNodes(next, nodes.data(), &count) != CUDA_SUCCESS) continue;
      nodes.resize(std::min(count, nodes.size()));
      for (CUgraphNode node : nodes) {
        note(HandleKind::kGraphNode, uint64_t(node));
        if (CUgraph child = child_of(node)) graphs.push_back(child);
        for (CUgraph body : bodies_of(node)) graphs.push_back(body);
      }
    }
  }
  // The caller erases the node itself.
  void add_child_of(CUgraphNode node) {
    if (CUgraph child = child_of(node)) add_graph(child);
    for (CUgraph body : bodies_of(node)) add_graph(body);
  }
  void erase() {
    for (const auto& [kind, value] : values_) call_.erase(kind, value);
  }

 private:
  CUgraph child_of(CUgraphNode node) {
    CUgraphNodeType type{};
    CUgraph child = nullptr;
    if (call_.driver.cuGraphNodeGetType(node, &type) != CUDA_SUCCESS || type != CU_GRAPH_NODE_TYPE_GRAPH) return nullptr;
    if (call_.driver.cuGraphChildGraphNodeGetGraph(node, &child) != CUDA_SUCCESS) return nullptr;
    note(HandleKind::kGraph, uint64_t(child));
    return child;
  }
  std::vector<CUgraph> bodies_of(CUgraphNode node) {
    std::vector<CUgraph> bodies = session_of(call_).graphs.bodies_of(node);
    for (CUgraph body : bodies) note(HandleKind::kGraph, uint64_t(body));
    return bodies;
  }
  void note(HandleKind kind, uint64_t real) {
    if (const uint64_t value = session_of(call_).handles.find_value(kind, real)) values_.emplace_back(kind, value);
  }

  Call& call_;
  std::vector<std::pair<HandleKind, uint64_t>> values_;
};

// Node parameters with the packed buffer spread into kernelParams.
bool with_params(Call& call, const CUDA_KERNEL_NODE_PARAMS* given, std::span<const std::byte> params,
                 CUDA_KERNEL_NODE_PARAMS& full, std::vector<void*>& pointers) {
  if (!given) return false;
  full = *given;
  const auto function = full.func ? full.func : reinterpret_cast<CUfunction>(full.kern);
  const Session& session = session_of(call);
  if (!session.functions.spread(function, for_device(session, params), pointers)) return false;
  full.kernelParams = pointers.empty() ? nullptr : pointers.data();
  full.extra = nullptr;
  return true;
}

}  // namespace

CUresult handle_cuLaunchKernel(Call& call, CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                               unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                               unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream, void**, void**,
                               std::span<const std::byte> params) {
  Params given(call, f, params);
  if (!given.fit()) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = call.driver.cuLaunchKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                                                     sharedMemBytes, hStream, given.list(), given.extra());
  return note_refusal(call, f, {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes},
                      params.size(), result);
}

CUresult handle_cuLaunchCooperativeKernel(Call& call, CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                          unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                                          unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream, void**,
                                          std::span<const std::byte> params) {
  Params given(call, f, params);
  if (!given.fit() || given.extra()) return CUDA_ERROR_INVALID_VALUE;
  return call.driver.cuLaunchCooperativeKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                                               sharedMemBytes, hStream, given.list());
}

CUresult handle_cuLaunchKernelEx(Call& call, const CUlaunchConfig* config, CUfunction f, void**, void**,
                                 std::span<const std::byte> params, std::span<const std::byte> attrs) {
  Params given(call, f, params);
  if (!config || !given.fit()) return CUDA_ERROR_INVALID_VALUE;
  CUlaunchConfig full = *config;
  if (CUresult why = take_launch_attributes(call, attrs, full); why != CUDA_SUCCESS) return why;
  const CUresult result = call.driver.cuLaunchKernelEx(&full, f, given.list(), given.extra());
  return note_refusal(call, f, {full.gridDimX, full.gridDimY, full.gridDimZ, full.blockDimX, full.blockDimY, full.blockDimZ,
                                full.sharedMemBytes}, params.size(), result);
}

CUresult handle_cuStreamDestroy_v2(Call& call, CUstream hStream) { return call.driver.cuStreamDestroy_v2(hStream); }

CUresult handle_cuStreamGetCaptureInfo_v3(Call& call, CUstream hStream, CUstreamCaptureStatus* captureStatus_out,
                                          cuuint64_t* id_out, CUgraph*, const CUgraphNode**, const CUgraphEdgeData**,
                                          size_t*, uint64_t& graph, std::span<const std::byte>& dependencies,
                                          std::span<const std::byte>& edges) {
  CUgraph real_graph = nullptr;
  const CUgraphNode* nodes = nullptr;
  const CUgraphEdgeData* edge_data = nullptr;
  size_t count = 0;
  const CUresult result = call.driver.cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, &real_graph, &nodes,
                                                                &edge_data, &count);
  if (result != CUDA_SUCCESS || !real_graph) return result;
  graph = call.value_of(HandleKind::kGraph, uint64_t(real_graph));
  std::string values;
  for (size_t i = 0; nodes && i < count; ++i) {
    const uint64_t value = call.value_of(HandleKind::kGraphNode, uint64_t(nodes[i]));
    values.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  dependencies = keep(call, values);
  if (edge_data) edges = keep(call, {reinterpret_cast<const char*>(edge_data), count * sizeof(CUgraphEdgeData)});
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphDestroy(Call& call, CUgraph hGraph) {
  Dying dying(call);
  dying.add_graph(hGraph);
  const CUresult result = call.driver.cuGraphDestroy(hGraph);
  if (result == CUDA_SUCCESS) dying.erase();
  return result;
}

CUresult handle_cuGraphDestroyNode(Call& call, CUgraphNode hNode) {
  Dying dying(call);
  dying.add_child_of(hNode);
  const CUresult result = call.driver.cuGraphDestroyNode(hNode);
  if (result == CUDA_SUCCESS) dying.erase();
  return result;
}

CUresult handle_cuGraphAddKernelNode_v2(Call& call, CUgraphNode* phGraphNode, CUgraph hGraph,
                                        const CUgraphNode* dependencies, size_t numDependencies,
                                        const CUDA_KERNEL_NODE_PARAMS* nodeParams, std::span<const std::byte> params) {
  CUDA_KERNEL_NODE_PARAMS full;
  std::vector<void*> pointers;
  if (!with_params(call, nodeParams, params, full, pointers)) return CUDA_ERROR_INVALID_VALUE;
  return call.driver.cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &full);
}

CUresult handle_cuGraphKernelNodeGetParams_v2(Call& call, CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS* nodeParams,
                                              std::span<const std::byte>& params) {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = call.driver.cuGraphKernelNodeGetParams_v2(hNode, nodeParams);
  if (result != CUDA_SUCCESS) return result;
  const Functions& functions = session_of(call).functions;
  std::string packed;
  if (!functions.gather(reinterpret_cast<CUfunction>(nodeParams->kern), nodeParams->kernelParams, packed) &&
      !functions.gather(nodeParams->func, nodeParams->kernelParams, packed))
    return CUDA_ERROR_NOT_SUPPORTED;  // launched in the packed form alone: nothing tells where its parameters lie
  params = keep(call, packed);
  return params.size() == packed.size() ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult handle_cuGraphKernelNodeSetParams_v2(Call& call, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS* nodeParams,
                                              std::span<const std::byte> params) {
  CUDA_KERNEL_NODE_PARAMS full;
  std::vector<void*> pointers;
  if (!with_params(call, nodeParams, params, full, pointers)) return CUDA_ERROR_INVALID_VALUE;
  return call.driver.cuGraphKernelNodeSetParams_v2(hNode, &full);
}

CUresult handle_cuGraphExecKernelNodeSetParams_v2(Call& call, CUgraphExec hGraphExec, CUgraphNode hNode,
                                                  const CUDA_KERNEL_NODE_PARAMS* nodeParams,
                                                  std::span<const std::byte> params) {
  CUDA_KERNEL_NODE_PARAMS full;
  std::vector<void*> pointers;
  if (!with_params(call, nodeParams, params, full, pointers)) return CUDA_ERROR_INVALID_VALUE;
  return call.driver.cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &full);
}

}  // namespace bf::server
