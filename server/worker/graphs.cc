#include "server/worker/graphs.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "server/worker/session.h"

namespace bf::server {

// --- Staging -----------------------------------------------------------------------------------------------------------

CUresult GraphStaging::allocate(uint64_t bytes, uint64_t* address) {
  if (bytes == 0 || bytes > kBytes) return CUDA_ERROR_OUT_OF_MEMORY;
  auto region = std::make_shared<PinnedRegion>();
  if (!region->map(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!region->pin(driver_)) return CUDA_ERROR_OUT_OF_MEMORY;
  std::lock_guard guard(mutex_);
  if (bytes_ + bytes > kBytes) {
    region->unpin(driver_);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  bytes_ += bytes;
  *address = uint64_t(region->data());
  regions_.emplace(*address, std::move(region));
  return CUDA_SUCCESS;
}

void GraphStaging::free(uint64_t address) {
  std::shared_ptr<PinnedRegion> region;
  {
    std::lock_guard guard(mutex_);
    const auto found = regions_.find(address);
    if (found == regions_.end()) return;
    region = std::move(found->second);
    regions_.erase(found);
    bytes_ -= region->bytes();
  }
  region->unpin(driver_);
}

std::shared_ptr<PinnedRegion> GraphStaging::find(uint64_t address) const {
  std::lock_guard guard(mutex_);
  const auto found = regions_.find(address);
  return found == regions_.end() ? nullptr : found->second;
}

bool GraphStaging::holds(uint64_t address) const { return find(address) != nullptr; }

bool GraphStaging::write(uint64_t address, uint64_t offset, std::span<const std::byte> bytes) {
  const auto region = find(address);
  if (!region || offset > region->bytes() || bytes.size() > region->bytes() - offset) return false;
  if (!bytes.empty()) std::memcpy(region->data() + offset, bytes.data(), bytes.size());
  return true;
}

// --- Looking at a graph ----------------------------------------------------------------------------------------------

// One graph with its child graphs and bodies as a single list of nodes with edges: a child graph becomes two points, its
// beginning and its end, with its nodes between them.
class Graphs::Walk {
 public:
  explicit Walk(Graphs& graphs) : graphs_(graphs), session_(graphs.session_), driver_(session_.driver) {}

  CUresult add(CUgraph graph, CUgraphNode top, bool maybe_skipped, size_t begin, size_t end) {
    if (++graphs_seen_ > kGraphs) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t count = 0;
    if (CUresult why = driver_.cuGraphGetNodes(graph, nullptr, &count); why != CUDA_SUCCESS) return why;
    std::vector<CUgraphNode> nodes(count);
    if (count > 0)
      if (CUresult why = driver_.cuGraphGetNodes(graph, nodes.data(), &count); why != CUDA_SUCCESS) return why;
    std::unordered_map<CUgraphNode, std::pair<size_t, size_t>> points;  // where a node begins and ends
    for (CUgraphNode node : nodes) {
      CUgraphNodeType type{};
      if (CUresult why = driver_.cuGraphNodeGetType(node, &type); why != CUDA_SUCCESS) return why;
      const size_t first = point();
      size_t last = first;
      if (CUresult why = add_node(node, type, top ? top : node, maybe_skipped, first, last); why != CUDA_SUCCESS) return why;
      connect(begin, first);
      connect(last, end);
      points[node] = {first, last};
    }
    // Edges that carry data of their own (programmatic launch) are refused by the plain question.
    size_t edges = 0;
    auto ask = [&](CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* data) {
      return driver_.cuGraphGetEdges_v2 ? driver_.cuGraphGetEdges_v2(graph, from, to, data, &edges)
                                        : driver_.cuGraphGetEdges(graph, from, to, &edges);
    };
    if (CUresult why = ask(nullptr, nullptr, nullptr); why != CUDA_SUCCESS) return why;
    std::vector<CUgraphNode> from(edges), to(edges);
    std::vector<CUgraphEdgeData> data(edges);
    if (edges > 0)
      if (CUresult why = ask(from.data(), to.data(), data.data()); why != CUDA_SUCCESS) return why;
    for (size_t i = 0; i < edges; ++i)
      if (points.contains(from[i]) && points.contains(to[i])) connect(points[from[i]].second, points[to[i]].first);
    return CUDA_SUCCESS;
  }

  size_t point() {
    after_.emplace_back();
    before_.emplace_back();
    part_.push_back(kNone);
    return after_.size() - 1;
  }

  // Host functions get the staging that they need; the copies' flags are completed.
  CUresult prepare_functions() {
    std::vector<size_t> hosts;
    for (size_t p = 0; p < part_.size(); ++p)
      if (part_[p] != kNone && found.parts[part_[p]].function) hosts.push_back(p);
    std::vector<std::set<size_t>> behind(hosts.size()), ahead(hosts.size());  // points that come before, after
    for (size_t h = 0; h < hosts.size(); ++h) {
      behind[h] = reach(before_, hosts[h]);
      ahead[h] = reach(after_, hosts[h]);
    }
    const auto any_host = [&](const auto& is) {
      for (size_t other = 0; other < hosts.size(); ++other)
        if (is(other)) return true;
      return false;
    };
    for (size_t h = 0; h < hosts.size(); ++h) {
      std::vector<StagingRef> deliver, fetch;
      for (size_t p : behind[h]) {
        if (part_[p] == kNone || !found.parts[part_[p]].destination) continue;
        // A host function between the two delivers it already.
        const bool earlier = any_host([&](size_t other) { return other != h && behind[h].contains(hosts[other]) && behind[other].contains(p); });
        if (earlier) continue;
        deliver.push_back(found.parts[part_[p]].destination);
        if (!(found.parts[part_[hosts[h]]].flags & GraphPart::kMaybeSkipped)) found.parts[part_[p]].flags |= GraphPart::kDelivered;
      }
      for (size_t p : ahead[h]) {
        if (part_[p] == kNone || !found.parts[part_[p]].source) continue;
        const bool later = any_host([&](size_t other) { return other != h && ahead[h].contains(hosts[other]) && ahead[other].contains(p); });
        if (!later) fetch.push_back(found.parts[part_[p]].source);
      }
      Part& part = found.parts[part_[hosts[h]]];
      if (deliver.empty() && fetch.empty() && !HostCalls::moves_data(part.function)) continue;
      // Its own argument for this executable graph: another may have other staging.
      CUDA_HOST_NODE_PARAMS params{};
      params.fn = HostCalls::run;
      params.userData = session_.host_calls.argument(HostCalls::id_of(part.function), true, std::move(deliver), std::move(fetch));
      if (CUresult why = driver_.cuGraphHostNodeSetParams(part.node, &params); why != CUDA_SUCCESS) return why;
      part.function = params.userData;
    }
    return CUDA_SUCCESS;
  }

  Found found;

 private:
  static constexpr size_t kNone = SIZE_MAX;
  static constexpr size_t kGraphs = 4096;  // with all their children

  CUresult add_node(CUgraphNode node, CUgraphNodeType type, CUgraphNode top, bool maybe_skipped, size_t first, size_t& last) {
    Part part;
    part.node = node;
    part.top = top;
    part.flags = maybe_skipped ? uint32_t{GraphPart::kMaybeSkipped} : 0;
    switch (type) {
      case CU_GRAPH_NODE_TYPE_MEMCPY: {
        CUDA_MEMCPY3D copy{};
        if (CUresult why = driver_.cuGraphMemcpyNodeGetParams(node, &copy); why != CUDA_SUCCESS) return why;
        part.source = graphs_.staging_of(copy.srcMemoryType, copy.srcDevice, copy.srcHost);
        part.destination = graphs_.staging_of(copy.dstMemoryType, copy.dstDevice, copy.dstHost);
        if (part.source) part.flags |= GraphPart::kReadsHost;
        if (part.destination) part.flags |= GraphPart::kWritesHost;
        if (part.source || part.destination) keep(first, std::move(part));
        return CUDA_SUCCESS;
      }
      case CU_GRAPH_NODE_TYPE_HOST: {
        CUDA_HOST_NODE_PARAMS params{};
        if (CUresult why = driver_.cuGraphHostNodeGetParams(node, &params); why != CUDA_SUCCESS) return why;
        if (params.fn != HostCalls::run) return CUDA_SUCCESS;
        part.function = params.userData;
        keep(first, std::move(part));
        return CUDA_SUCCESS;
      }
      case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
        CUDA_MEM_ALLOC_NODE_PARAMS params{};
        if (driver_.cuGraphMemAllocNodeGetParams(node, &params) == CUDA_SUCCESS) found.memory_bytes += params.bytesize;
        return CUDA_SUCCESS;
      }
      case CU_GRAPH_NODE_TYPE_GRAPH: {
        CUgraph child = nullptr;
        if (CUresult why = driver_.cuGraphChildGraphNodeGetGraph(node, &child); why != CUDA_SUCCESS) return why;
        last = point();
        connect(first, last);
        return add(child, top, maybe_skipped, first, last);
      }
      case CU_GRAPH_NODE_TYPE_CONDITIONAL: {
        last = point();
        connect(first, last);
        for (CUgraph body : graphs_.bodies_of(node))
          if (CUresult why = add(body, top, true, first, last); why != CUDA_SUCCESS) return why;
        return CUDA_SUCCESS;
      }
      default: return CUDA_SUCCESS;
    }
  }
  void keep(size_t at, Part part) {
    part_[at] = found.parts.size();
    found.parts.push_back(std::move(part));
  }
  void connect(size_t from, size_t to) {
    after_[from].push_back(to);
    before_[to].push_back(from);
  }
  static std::set<size_t> reach(const std::vector<std::vector<size_t>>& edges, size_t from) {
    std::set<size_t> seen;
    std::vector<size_t> open{from};
    while (!open.empty()) {
      const size_t next = open.back();
      open.pop_back();
      for (size_t p : edges[next])
        if (seen.insert(p).second) open.push_back(p);
    }
    return seen;
  }

  Graphs& graphs_;
  Session& session_;
  const DriverApi& driver_;
  size_t graphs_seen_ = 0;
  std::vector<std::vector<size_t>> after_, before_;
  std::vector<size_t> part_;  // index in found.parts
};

StagingRef Graphs::staging_of(CUmemorytype type, CUdeviceptr device, const void* host) const {
  const uint64_t address = type == CU_MEMORYTYPE_HOST ? uint64_t(host) : type == CU_MEMORYTYPE_ARRAY ? 0 : device;
  return address && session_.graph_staging.holds(address) ? std::make_shared<std::atomic<uint64_t>>(address) : nullptr;
}

void Graphs::add_bodies(CUgraphNode node, std::vector<CUgraph> bodies) {
  std::lock_guard guard(mutex_);
  bodies_[node] = std::move(bodies);
}

std::vector<CUgraph> Graphs::bodies_of(CUgraphNode node) const {
  std::lock_guard guard(mutex_);
  const auto found = bodies_.find(node);
  return found == bodies_.end() ? std::vector<CUgraph>{} : found->second;
}

CUresult Graphs::look_at(CUgraph graph, Found& found) {
  if (!graph) return CUDA_SUCCESS;  // the driver says what is wrong
  if (!has_parts_.load(std::memory_order_relaxed) && !has_memory_.load(std::memory_order_relaxed)) return CUDA_SUCCESS;
  Walk walk(*this);
  const size_t begin = walk.point(), end = walk.point();
  if (CUresult why = walk.add(graph, nullptr, false, begin, end); why != CUDA_SUCCESS) return why;
  if (CUresult why = walk.prepare_functions(); why != CUDA_SUCCESS) return why;
  found = std::move(walk.found);
  if (found.memory_bytes == 0) return CUDA_SUCCESS;
  size_t device = 0;
  if (!session_.contexts.current_device(device)) return CUDA_SUCCESS;
  settle_memory();
  // Memory of graphs that is set aside already may serve this one.
  cuuint64_t reserved = 0;
  session_.driver.cuDeviceGetGraphMemAttribute(CUdevice(device), CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved);
  const uint64_t more = found.memory_bytes - std::min<uint64_t>(found.memory_bytes, reserved);
  return session_.pools.may_fit(device, more) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

bool Graphs::captures_memory(CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (session_.driver.cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS || status == CU_STREAM_CAPTURE_STATUS_NONE) return false;
  note_memory();
  return true;
}

std::string Graphs::finish(CUgraphExec exec, Found&& found) {
  if (found.parts.empty() && found.memory_bytes == 0) {
    forget(exec);
    return {};
  }
  std::lock_guard guard(mutex_);
  Exec& kept = execs_[exec];
  kept.parts = std::move(found.parts);
  kept.allocates = found.memory_bytes > 0;
  return encoded(kept);
}

void Graphs::forget(CUgraphExec exec) {
  std::lock_guard guard(mutex_);
  execs_.erase(exec);
}

std::string Graphs::encoded(const Exec& exec) const {
  std::string bytes;
  const auto append = [&](GraphPart part) { bytes.append(reinterpret_cast<const char*>(&part), sizeof(part)); };
  for (const Part& part : exec.parts) {
    constexpr uint32_t kWays = GraphPart::kReadsHost | GraphPart::kWritesHost;
    if (part.function) append({0, HostCalls::id_of(part.function), part.flags, 0});
    if (part.source) append({*part.source, 0, (part.flags & ~kWays & ~GraphPart::kDelivered) | GraphPart::kReadsHost, 0});
    if (part.destination) append({*part.destination, 0, (part.flags & ~kWays) | GraphPart::kWritesHost, 0});
  }
  return bytes;
}

std::string Graphs::copy_changed(CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D& copy) {
  const StagingRef source = staging_of(copy.srcMemoryType, copy.srcDevice, copy.srcHost);
  const StagingRef destination = staging_of(copy.dstMemoryType, copy.dstDevice, copy.dstHost);
  std::lock_guard guard(mutex_);
  const auto kept = execs_.find(exec);
  if (kept == execs_.end()) return {};
  for (Part& part : kept->second.parts) {
    if (part.node != node) continue;
    // The driver allows no other kind of memory than before, so both sides are what they were.
    if (part.source && source) part.source->store(*source);
    if (part.destination && destination) part.destination->store(*destination);
  }
  return encoded(kept->second);
}

void* Graphs::function_with_id(CUgraphExec exec, CUgraphNode node, uint64_t id) {
  std::lock_guard guard(mutex_);
  if (const auto kept = execs_.find(exec); kept != execs_.end())
    for (const Part& part : kept->second.parts)
      if (part.node == node && part.function) return session_.host_calls.argument_like(part.function, id);
  return session_.host_calls.argument(id, true);
}

std::string Graphs::function_changed(CUgraphExec exec, CUgraphNode node, void* function) {
  std::lock_guard guard(mutex_);
  Exec& kept = execs_[exec];
  const auto part = std::ranges::find_if(kept.parts, [&](const Part& p) { return p.node == node; });
  if (part != kept.parts.end())
    part->function = function;
  else
    kept.parts.push_back({node, node, nullptr, nullptr, function, 0});
  return encoded(kept);
}

std::string Graphs::child_changed(CUgraphExec exec, CUgraphNode node, Found&& found) {
  std::lock_guard guard(mutex_);
  const auto kept = execs_.find(exec);
  if (kept == execs_.end() && found.parts.empty()) return {};
  Exec& changed = kept == execs_.end() ? execs_[exec] : kept->second;
  std::erase_if(changed.parts, [&](const Part& part) { return part.top == node; });
  for (Part& part : found.parts) {
    part.top = node;
    changed.parts.push_back(std::move(part));
  }
  return encoded(changed);
}

// The driver keeps it in a pool of its own, one per device.
void Graphs::settle_memory() {
  if (!has_memory_.load(std::memory_order_relaxed)) return;
  for (size_t device = 0; device < session_.config.devices.size(); ++device) {
    cuuint64_t reserved = 0;
    if (session_.driver.cuDeviceGetGraphMemAttribute(CUdevice(device), CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved) != CUDA_SUCCESS)
      continue;
    const auto pool = reinterpret_cast<CUmemoryPool>(device + 1);  // is_memory()
    session_.charges.set_pool(pool, device, reserved);
  }
}

void Graphs::launched(CUgraphExec exec) {
  if (!has_memory_.load(std::memory_order_relaxed)) return;
  {
    std::lock_guard guard(mutex_);
    const auto kept = execs_.find(exec);
    if (kept == execs_.end() || !kept->second.allocates) return;
  }
  settle_memory();
}

// --- Calls -------------------------------------------------------------------------------------------------------------

CUresult handle_bfStagingAlloc(Call& call, uint64_t bytes, uint64_t& address) {
  session_of(call).graphs.note_parts();
  return session_of(call).graph_staging.allocate(bytes, &address);
}

CUresult handle_bfStagingFree(Call& call, uint64_t address) {
  session_of(call).graph_staging.free(address);
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphInstantiateWithFlags(Call& call, CUgraphExec* phGraphExec, CUgraph hGraph, unsigned long long flags,
                                            std::span<const std::byte>& parts) {
  Graphs& graphs = session_of(call).graphs;
  Graphs::Found found;
  if (CUresult why = graphs.look_at(hGraph, found); why != CUDA_SUCCESS) return why;
  const CUresult result = call.driver.cuGraphInstantiateWithFlags(phGraphExec, hGraph, flags);
  if (result == CUDA_SUCCESS && (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)) graphs.note_device_launch();
  if (result == CUDA_SUCCESS) parts = keep(call, graphs.finish(*phGraphExec, std::move(found)));
  return result;
}

CUresult handle_cuGraphExecUpdate_v2(Call& call, CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo* resultInfo,
                                     std::span<const std::byte>& parts) {
  Graphs& graphs = session_of(call).graphs;
  Graphs::Found found;
  if (CUresult why = graphs.look_at(hGraph, found); why != CUDA_SUCCESS) return why;
  const CUresult result = call.driver.cuGraphExecUpdate_v2(hGraphExec, hGraph, resultInfo);
  if (result == CUDA_SUCCESS) parts = keep(call, graphs.finish(hGraphExec, std::move(found)));
  return result;
}

CUresult handle_cuGraphExecChildGraphNodeSetParams(Call& call, CUgraphExec hGraphExec, CUgraphNode hNode, CUgraph childGraph,
                                                   std::span<const std::byte>& parts) {
  Graphs& graphs = session_of(call).graphs;
  Graphs::Found found;
  if (CUresult why = graphs.look_at(childGraph, found); why != CUDA_SUCCESS) return why;
  const CUresult result = call.driver.cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, childGraph);
  if (result == CUDA_SUCCESS) parts = keep(call, graphs.child_changed(hGraphExec, hNode, std::move(found)));
  return result;
}

CUresult handle_cuGraphExecDestroy(Call& call, CUgraphExec hGraphExec) {
  session_of(call).graphs.forget(hGraphExec);
  return call.driver.cuGraphExecDestroy(hGraphExec);
}

CUresult handle_cuGraphLaunch(Call& call, CUgraphExec hGraphExec, CUstream hStream) {
  const CUresult result = call.driver.cuGraphLaunch(hGraphExec, hStream);
  if (result == CUDA_SUCCESS) session_of(call).graphs.launched(hGraphExec);
  return result;
}

// --- Nodes: copies and host functions

namespace {

// A host side is an address of the client's: it goes through staging instead.
bool has_host_side(const CUDA_MEMCPY3D* copy) {
  return copy->srcMemoryType == CU_MEMORYTYPE_HOST || copy->dstMemoryType == CU_MEMORYTYPE_HOST;
}

}  // namespace

CUresult handle_cuGraphAddMemcpyNode(Call& call, CUgraphNode* phGraphNode, CUgraph hGraph,
                                     const CUgraphNode* dependencies, size_t numDependencies,
                                     const CUDA_MEMCPY3D* copyParams, CUcontext ctx) {
  if (!copyParams) return CUDA_ERROR_INVALID_VALUE;
  if (has_host_side(copyParams)) return CUDA_ERROR_NOT_SUPPORTED;
  return call.driver.cuGraphAddMemcpyNode(phGraphNode, hGraph, dependencies, numDependencies, copyParams, ctx);
}

CUresult handle_cuGraphMemcpyNodeSetParams(Call& call, CUgraphNode hNode, const CUDA_MEMCPY3D* nodeParams) {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  if (has_host_side(nodeParams)) return CUDA_ERROR_NOT_SUPPORTED;
  return call.driver.cuGraphMemcpyNodeSetParams(hNode, nodeParams);
}

CUresult handle_cuGraphExecMemcpyNodeSetParams(Call& call, CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMCPY3D* copyParams,
                                               CUcontext ctx, std::span<const std::byte>& parts) {
  if (!copyParams) return CUDA_ERROR_INVALID_VALUE;
  if (has_host_side(copyParams)) return CUDA_ERROR_NOT_SUPPORTED;
  const CUresult result = call.driver.cuGraphExecMemcpyNodeSetParams(hGraphExec, hNode, copyParams, ctx);
  if (result == CUDA_SUCCESS) parts = keep(call, session_of(call).graphs.copy_changed(hGraphExec, hNode, *copyParams));
  return result;
}

CUresult handle_cuGraphAddHostNode(Call& call, CUgraphNode* phGraphNode, CUgraph hGraph,
                                   const CUgraphNode* dependencies, size_t numDependencies,
                                   const CUDA_HOST_NODE_PARAMS*, uint64_t id) {
  HostCalls& host_calls = session_of(call).host_calls;
  session_of(call).graphs.note_parts();
  const CUDA_HOST_NODE_PARAMS params{HostCalls::run, host_calls.argument(id, true)};
  const CUresult result = call.driver.cuGraphAddHostNode(phGraphNode, hGraph, dependencies, numDependencies, &params);
  if (result != CUDA_SUCCESS) host_calls.forget(params.userData);
  return result;
}

CUresult handle_cuGraphHostNodeGetParams(Call& call, CUgraphNode hNode, CUDA_HOST_NODE_PARAMS*, uint64_t& id) {
  CUDA_HOST_NODE_PARAMS params{};
  const CUresult result = call.driver.cuGraphHostNodeGetParams(hNode, &params);
  if (result == CUDA_SUCCESS && params.fn == HostCalls::run) id = HostCalls::id_of(params.userData);
  return result;
}

CUresult handle_cuGraphHostNodeSetParams(Call& call, CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS*, uint64_t id) {
  HostCalls& host_calls = session_of(call).host_calls;
  const CUDA_HOST_NODE_PARAMS params{HostCalls::run, host_calls.argument(id, true)};
  const CUresult result = call.driver.cuGraphHostNodeSetParams(hNode, &params);
  if (result != CUDA_SUCCESS) host_calls.forget(params.userData);
  return result;
}

CUresult handle_cuGraphExecHostNodeSetParams(Call& call, CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS*,
                                             uint64_t id, std::span<const std::byte>& parts) {
  Session& session = session_of(call);
  const CUDA_HOST_NODE_PARAMS params{HostCalls::run, session.graphs.function_with_id(hGraphExec, hNode, id)};
  const CUresult result = call.driver.cuGraphExecHostNodeSetParams(hGraphExec, hNode, &params);
  if (result == CUDA_SUCCESS) {
    parts = keep(call, session.graphs.function_changed(hGraphExec, hNode, params.userData));
  } else {
    session.host_calls.forget(params.userData);
  }
  return result;
}

// --- Nodes: memory, memory operations, conditions

namespace {

template <typename T>
std::vector<T> list_of(std::span<const std::byte> bytes) {
  std::vector<T> list(bytes.size() / sizeof(T));
  if (!list.empty()) std::memcpy(list.data(), bytes.data(), list.size() * sizeof(T));
  return list;
}

template <typename T>
std::string_view bytes_of(const T* list, size_t count) {
  return list ? std::string_view(reinterpret_cast<const char*>(list), count * sizeof(T)) : std::string_view{};
}

// The parameters with the operations that came beside them; false: they are not as many as it says.
bool with_operations(const CUDA_BATCH_MEM_OP_NODE_PARAMS* given, std::span<const std::byte> bytes,
                     std::vector<CUstreamBatchMemOpParams>& operations, CUDA_BATCH_MEM_OP_NODE_PARAMS& full) {
  if (!given) return false;
  operations = list_of<CUstreamBatchMemOpParams>(bytes);
  full = *given;
  full.paramArray = operations.data();
  return operations.size() == full.count;
}

}  // namespace

CUresult handle_cuGraphAddMemAllocNode(Call& call, CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                       size_t numDependencies, CUDA_MEM_ALLOC_NODE_PARAMS* nodeParams,
                                       std::span<const std::byte> access) {
  if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
  // Memory of the server's host would be out of every account.
  if (nodeParams->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE && nodeParams->poolProps.location.type != CU_MEM_LOCATION_TYPE_INVALID)
    return CUDA_ERROR_NOT_SUPPORTED;
  session_of(call).graphs.note_memory();
  std::vector<CUmemAccessDesc> descriptions = list_of<CUmemAccessDesc>(access);
  if (descriptions.size() != nodeParams->accessDescCount) return CUDA_ERROR_INVALID_VALUE;
  nodeParams->accessDescs = descriptions.data();
  const CUresult result = call.driver.cuGraphAddMemAllocNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
  nodeParams->accessDescs = nullptr;
  return result;
}

CUresult handle_cuGraphMemAllocNodeGetParams(Call& call, CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS* params_out,
                                             std::span<const std::byte>& access) {
  if (!params_out) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = call.driver.cuGraphMemAllocNodeGetParams(hNode, params_out);
  if (result == CUDA_SUCCESS) access = keep(call, bytes_of(params_out->accessDescs, params_out->accessDescCount));
  return result;
}

CUresult handle_cuGraphAddBatchMemOpNode(Call& call, CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                         size_t numDependencies, const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams,
                                         std::span<const std::byte> operations) {
  std::vector<CUstreamBatchMemOpParams> list;
  CUDA_BATCH_MEM_OP_NODE_PARAMS full;
  if (!with_operations(nodeParams, operations, list, full)) return CUDA_ERROR_INVALID_VALUE;
  return call.driver.cuGraphAddBatchMemOpNode(phGraphNode, hGraph, dependencies, numDependencies, &full);
}

CUresult handle_cuGraphBatchMemOpNodeGetParams(Call& call, CUgraphNode hNode, CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams_out,
                                               std::span<const std::byte>& operations) {
  if (!nodeParams_out) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = call.driver.cuGraphBatchMemOpNodeGetParams(hNode, nodeParams_out);
  if (result == CUDA_SUCCESS) operations = keep(call, bytes_of(nodeParams_out->paramArray, nodeParams_out->count));
  return result;
}

CUresult handle_cuGraphBatchMemOpNodeSetParams(Call& call, CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams,
                                               std::span<const std::byte> operations) {
  std::vector<CUstreamBatchMemOpParams> list;
  CUDA_BATCH_MEM_OP_NODE_PARAMS full;
  if (!with_operations(nodeParams, operations, list, full)) return CUDA_ERROR_INVALID_VALUE;
  return call.driver.cuGraphBatchMemOpNodeSetParams(hNode, &full);
}

CUresult handle_cuGraphExecBatchMemOpNodeSetParams(Call& call, CUgraphExec hGraphExec, CUgraphNode hNode,
                                                   const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams,
                                                   std::span<const std::byte> operations) {
  std::vector<CUstreamBatchMemOpParams> list;
  CUDA_BATCH_MEM_OP_NODE_PARAMS full;
  if (!with_operations(nodeParams, operations, list, full)) return CUDA_ERROR_INVALID_VALUE;
  return call.driver.cuGraphExecBatchMemOpNodeSetParams(hGraphExec, hNode, &full);
}

// Conditional nodes only: the client makes the other kinds by their own calls.
CUresult handle_cuGraphAddNode_v2(Call& call, CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                  const CUgraphEdgeData* dependencyData, size_t numDependencies, CUgraphNodeParams*,
                                  std::span<const std::byte> conditional, std::span<const std::byte>& bodies) {
  if (conditional.size() != sizeof(CUDA_CONDITIONAL_NODE_PARAMS)) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params{};
  params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
  std::memcpy(&params.conditional, conditional.data(), sizeof(params.conditional));
  params.conditional.phGraph_out = nullptr;
  if (CUcontext& context = params.conditional.ctx) {
    uint64_t real = 0;
    if (!call.resolve(HandleKind::kContext, uint64_t(context), real)) return CUDA_ERROR_INVALID_CONTEXT;
    context = CUcontext(real);
  }
  const CUresult result = call.driver.cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, &params);
  if (result != CUDA_SUCCESS) return result;
  std::vector<CUgraph> made;
  std::string values;
  for (unsigned i = 0; params.conditional.phGraph_out && i < params.conditional.size; ++i) {
    made.push_back(params.conditional.phGraph_out[i]);
    const uint64_t value = call.value_of(HandleKind::kGraph, uint64_t(made.back()));
    values.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  session_of(call).graphs.add_bodies(*phGraphNode, std::move(made));
  bodies = keep(call, values);
  return CUDA_SUCCESS;
}

}  // namespace bf::server
