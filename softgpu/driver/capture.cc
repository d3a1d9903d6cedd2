#include <algorithm>
#include <unordered_set>

#include "softgpu/driver/driver.h"
#include "softgpu/driver/graph.h"

namespace bf::softgpu {
namespace {

std::atomic<int> g_active{0};  // captures under way: zero lets every call skip the lock
std::atomic<uint64_t> g_last_capture_id{0};
thread_local CUstreamCaptureMode t_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

// All captures under way; graph_mutex() guards it.
std::vector<std::shared_ptr<Capture>>& active() {
  static auto* all = new std::vector<std::shared_ptr<Capture>>;
  return *all;
}

// Ends the capture: no stream is part of it any more.
void end_capture(const std::shared_ptr<Capture>& capture) {
  capture->ended = true;
  for (auto& weak : capture->members) {
    StreamRef stream = weak.lock();
    if (!stream || stream->capture != capture) continue;
    stream->capture = nullptr;
    stream->frontier.clear();
  }
  capture->members.clear();
  g_active -= int(std::erase(active(), capture));
}

CUresult broken(Capture& capture, CUresult code) {
  capture.invalidated = true;
  return code;
}

// A capture in a blocking stream of the context forbids use of its legacy stream.
CUresult check_legacy(Stream& stream) {
  if (!stream.legacy) return CUDA_SUCCESS;
  for (auto& capture : active()) {
    for (auto& weak : capture->members) {
      StreamRef member = weak.lock();
      if (member && member->blocking() && member->context == stream.context)
        return broken(*capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
  }
  return CUDA_SUCCESS;
}

void join(const StreamRef& stream, const std::shared_ptr<Capture>& capture, std::vector<NodeRef> frontier) {
  stream->capture = capture;
  stream->frontier = std::move(frontier);
  capture->members.push_back(stream);
}

// All that the nodes depend on, and they themselves.
std::unordered_set<const GraphNode*> ancestors(const std::vector<NodeRef>& nodes) {
  std::unordered_set<const GraphNode*> seen;
  std::vector<NodeRef> open = nodes;
  while (!open.empty()) {
    NodeRef node = std::move(open.back());
    open.pop_back();
    if (!seen.insert(node.get()).second) continue;
    open.insert(open.end(), node->before.begin(), node->before.end());
  }
  return seen;
}

CUresult append_node(const StreamRef& stream, Work work) {
  NodeRef node = add_node(*stream->capture->graph, stream->context, std::move(work), stream->frontier);
  stream->frontier = {std::move(node)};
  return CUDA_SUCCESS;
}

}  // namespace

void invalidate_capture(Capture& capture) {
  std::lock_guard lock(graph_mutex());
  capture.invalidated = true;
}

bool is_capturing(Stream& stream) {
  if (g_active == 0) return false;
  std::lock_guard lock(graph_mutex());
  return stream.capture != nullptr;
}

CUresult check_stream_not_capturing(Stream& stream) {
  if (g_active == 0) return CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  if (stream.capture) return broken(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  return check_legacy(stream);
}

CUresult refuse_implicit_capture() {
  if (g_active == 0) return CUDA_SUCCESS;
  StreamRef stream;
  BF_TRY(default_stream(&stream));
  return check_stream_not_capturing(*stream);
}

CUresult check_not_capturing() {
  if (g_active == 0 || t_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  CUresult result = CUDA_SUCCESS;
  for (auto& capture : active()) {
    bool own = pthread_equal(capture->thread, pthread_self());
    bool concerned = own ? capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED
                         : capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && t_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (concerned) result = broken(*capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  return result;
}

void abandon_capture(Stream& stream) {
  if (g_active == 0) return;
  std::lock_guard lock(graph_mutex());
  if (!stream.capture) return;
  stream.capture->invalidated = true;
  if (stream.capture->origin.lock().get() == &stream) end_capture(std::shared_ptr<Capture>(stream.capture));
}

CUresult capture_work(const StreamRef& stream, Work& work, Delivery delivery, bool* captured) {
  if (g_active == 0) return CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  if (!stream->capture) return check_legacy(*stream);
  if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (delivery == Delivery::kWait || std::holds_alternative<CallbackWork>(work))
    return broken(*stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  *captured = true;
  return append_node(stream, std::move(work));
}

CUresult capture_event_record(const StreamRef& stream, const std::shared_ptr<Event>& event, uint32_t flags,
                              bool* captured) {
  if (g_active == 0) return flags & CU_EVENT_RECORD_EXTERNAL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  if (!stream->capture) return check_legacy(*stream);
  if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *captured = true;
  if (flags & CU_EVENT_RECORD_EXTERNAL) return append_node(stream, EventRecordWork{event});
  std::lock_guard event_lock(event->mutex);
  event->capture = stream->capture;
  event->captured_after = stream->frontier;
  return CUDA_SUCCESS;
}

CUresult capture_event_wait(const StreamRef& stream, const std::shared_ptr<Event>& event, uint32_t flags,
                            bool* captured) {
  std::unique_lock lock(graph_mutex());
  std::shared_ptr<Capture> capture;
  std::vector<NodeRef> after;
  {
    std::lock_guard event_lock(event->mutex);
    capture = event->capture;
    after = event->captured_after;
  }
  if (!capture || (flags & CU_EVENT_WAIT_EXTERNAL)) {
    if (!stream->capture) return g_active ? check_legacy(*stream) : CUDA_SUCCESS;
    if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!(flags & CU_EVENT_WAIT_EXTERNAL)) return broken(*stream->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    *captured = true;
    return append_node(stream, EventWaitWork{event});
  }
  if (capture->ended) return CUDA_ERROR_CAPTURED_EVENT;
  if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (stream->legacy) return broken(*capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
  if (stream->capture && stream->capture != capture) {
    stream->capture->invalidated = true;
    return broken(*capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
  }
  *captured = true;
  if (!stream->capture) {
    join(stream, capture, std::move(after));
    return CUDA_SUCCESS;
  }
  for (NodeRef& node : after)
    if (std::find(stream->frontier.begin(), stream->frontier.end(), node) == stream->frontier.end())
      stream->frontier.push_back(std::move(node));
  return CUDA_SUCCESS;
}

CUresult capture_allocation(const StreamRef& stream, const MemoryPoolRef& pool, size_t bytes, CUdeviceptr* out,
                            bool* captured) {
  if (g_active == 0) return CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  if (!stream->capture) return check_legacy(*stream);
  if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  BF_TRY(make_graph_memory(*stream->capture->graph, *stream->context, pool, bytes, out));
  AllocWork work;
  work.params.bytesize = bytes;
  work.params.dptr = *out;
  work.params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  work.params.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, pool->device};
  *captured = true;
  return append_node(stream, std::move(work));
}

CUresult capture_free(const StreamRef& stream, CUdeviceptr address, bool* captured) {
  if (g_active == 0) return CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  if (!stream->capture) return check_legacy(*stream);
  if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *captured = true;
  return append_node(stream, FreeWork{address});
}

CUresult capture_child(const StreamRef& stream, const GraphExec& exec, bool* captured) {
  if (g_active == 0) return CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  if (!stream->capture) return check_legacy(*stream);
  if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *captured = true;
  GraphRef child = clone_graph(*exec.graph, true);
  child->child = true;
  return append_node(stream, ChildWork{std::move(child)});
}

// --------------------------------------------------------------------------------------------------------- entry
// points

namespace {

CUresult begin(const StreamRef& stream, CUstreamCaptureMode mode, GraphRef graph, std::vector<NodeRef> frontier) {
  if (stream->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (unsigned(mode) > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  auto capture = std::make_shared<Capture>();
  capture->id = ++g_last_capture_id;
  capture->mode = mode;
  capture->thread = pthread_self();
  capture->origin = stream;
  capture->own_graph = !graph;
  if (!graph) {
    graph = std::make_shared<Graph>();
    graphs().add(graph);
  }
  capture->graph = std::move(graph);
  active().push_back(capture);
  g_active++;
  join(stream, capture, std::move(frontier));
  return CUDA_SUCCESS;
}

}  // namespace

BF_API CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  std::lock_guard lock(graph_mutex());
  return begin(stream, mode, nullptr, {});
}

BF_API CUresult cuStreamBeginCapture(CUstream handle) {
  BF_ENTER();
  return cuStreamBeginCapture_v2(handle, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

BF_API CUresult cuStreamBeginCaptureToGraph(CUstream handle, CUgraph graph_handle, const CUgraphNode* dependencies,
                                            const CUgraphEdgeData*, size_t count, CUstreamCaptureMode mode) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  std::lock_guard lock(graph_mutex());
  GraphRef graph = graphs().find(graph_handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  std::vector<NodeRef> frontier;
  BF_TRY(find_nodes(graph.get(), dependencies, count, &frontier));
  return begin(stream, mode, graph, std::move(frontier));
}

BF_API CUresult cuStreamEndCapture(CUstream handle, CUgraph* out) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  std::lock_guard lock(graph_mutex());
  *out = nullptr;
  std::shared_ptr<Capture> capture = stream->capture;
  if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin.lock() != stream) return broken(*capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->thread, pthread_self()))
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  CUresult result = capture->invalidated ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  auto joined = ancestors(stream->frontier);
  for (auto& weak : capture->members) {
    StreamRef member = weak.lock();
    if (result != CUDA_SUCCESS || !member || member == stream) continue;
    for (const NodeRef& node : member->frontier)
      if (!joined.count(node.get())) result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  }
  GraphRef graph = capture->graph;
  end_capture(capture);
  if (result == CUDA_SUCCESS) {
    *out = graph->handle;
  } else if (capture->own_graph) {
    graphs().remove(graph->handle);
    for (const NodeRef& node : graph->nodes) graph_nodes().remove(node->handle);
  }
  return result;
}

BF_API CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  BF_ENTER();
  if (!status) return CUDA_ERROR_INVALID_VALUE;
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (g_active == 0) return CUDA_SUCCESS;
  std::lock_guard lock(graph_mutex());
  if (stream->capture)
    *status = stream->capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  else
    return check_legacy(*stream);
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamGetCaptureInfo_v3(CUstream handle, CUstreamCaptureStatus* status, cuuint64_t* id,
                                          CUgraph* graph, const CUgraphNode** dependencies,
                                          const CUgraphEdgeData** edges, size_t* count) {
  BF_ENTER();
  BF_TRY(cuStreamIsCapturing(handle, status));
  if (*status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return CUDA_SUCCESS;
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  std::lock_guard lock(graph_mutex());
  if (!stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  // Valid until the thread asks again, as documented.
  thread_local std::vector<CUgraphNode> listed;
  thread_local std::vector<CUgraphEdgeData> listed_edges;
  listed.clear();
  for (const NodeRef& node : stream->frontier) listed.push_back(node->handle);
  listed_edges.assign(listed.size(), CUgraphEdgeData{});
  if (id) *id = stream->capture->id;
  if (graph) *graph = stream->capture->graph->handle;
  if (dependencies) *dependencies = listed.data();
  if (edges) *edges = listed_edges.data();
  if (count) *count = listed.size();
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamGetCaptureInfo_v2(CUstream handle, CUstreamCaptureStatus* status, cuuint64_t* id,
                                          CUgraph* graph, const CUgraphNode** dependencies, size_t* count) {
  BF_ENTER();
  return cuStreamGetCaptureInfo_v3(handle, status, id, graph, dependencies, nullptr, count);
}

BF_API CUresult cuStreamGetCaptureInfo(CUstream handle, CUstreamCaptureStatus* status, cuuint64_t* id) {
  BF_ENTER();
  return cuStreamGetCaptureInfo_v3(handle, status, id, nullptr, nullptr, nullptr, nullptr);
}

BF_API CUresult cuStreamUpdateCaptureDependencies_v2(CUstream handle, CUgraphNode* dependencies, const CUgraphEdgeData*,
                                                     size_t count, unsigned int flags) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(graph_mutex());
  if (!stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  std::vector<NodeRef> nodes;
  BF_TRY(find_nodes(stream->capture->graph.get(), dependencies, count, &nodes));
  if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES) stream->frontier.clear();
  for (NodeRef& node : nodes)
    if (std::find(stream->frontier.begin(), stream->frontier.end(), node) == stream->frontier.end())
      stream->frontier.push_back(std::move(node));
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamUpdateCaptureDependencies(CUstream handle, CUgraphNode* dependencies, size_t count,
                                                  unsigned int flags) {
  BF_ENTER();
  return cuStreamUpdateCaptureDependencies_v2(handle, dependencies, nullptr, count, flags);
}

BF_API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  BF_ENTER();
  if (!mode || unsigned(*mode) > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  std::swap(*mode, t_mode);
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
