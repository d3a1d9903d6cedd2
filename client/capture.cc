#include "client/capture.h"

#include <algorithm>
#include <cstring>

#include "api/remote.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

std::atomic<uint32_t> g_active{0};

// Guards every `capture` field and the captures' data.
SpinLock g_lock;

// The place where the stream's capture is kept; nullptr for the legacy stream, which cannot capture.
std::shared_ptr<Capture>* slot(CUstream stream) {
  if (stream == CU_STREAM_PER_THREAD) return &this_thread().capture;
  Stream* object = state().streams.find(value_of(stream));
  return object ? &object->capture : nullptr;
}

bool is_legacy(CUstream stream) { return stream == nullptr || stream == CU_STREAM_LEGACY; }

// What the worker's driver says; edges and dependencies stay valid until this thread's next call.
struct WorkerView {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t id = 0;
  uint64_t graph = 0;
  std::span<const std::byte> dependencies, edges;
};

CUresult ask_worker(CUstream stream, WorkerView* view) {
  return remote_cuStreamGetCaptureInfo_v3(stream, &view->status, &view->id, nullptr, nullptr, nullptr, nullptr,
                                          view->graph, view->dependencies, view->edges);
}

// `graph`: the value of the graph that is captured to; 0 for a new one.
void begin_capture(CUstream stream, uint64_t graph) {
  auto capture = std::make_shared<Capture>();
  Stream* object = state().streams.find(value_of(stream));
  capture->origin = value_of(stream);
  capture->blocking = !object || !(object->flags & CU_STREAM_NON_BLOCKING);
  capture->troubles = Session::get()->capture_troubles();
  capture->graph = graph;
  std::lock_guard guard(g_lock);
  *slot(stream) = std::move(capture);
  g_active.fetch_add(1, std::memory_order_release);
}

}  // namespace

bool any_capture() { return g_active.load(std::memory_order_acquire) != 0; }

std::shared_ptr<Capture> capture_of(CUstream stream) {
  if (!any_capture()) return nullptr;
  std::lock_guard guard(g_lock);
  auto* kept = slot(stream);
  if (!kept || !*kept || (*kept)->ended.load(std::memory_order_acquire)) return nullptr;
  return *kept;
}

void capture_recorded(CUevent event, CUstream stream, unsigned flags) {
  if (!any_capture() || (flags & CU_EVENT_RECORD_EXTERNAL)) return;
  auto capture = capture_of(stream);
  if (Event* object = state().events.find(value_of(event))) {
    std::lock_guard guard(g_lock);
    object->capture = std::move(capture);
  }
}

void capture_waits(CUstream stream, CUevent event, unsigned flags) {
  if (!any_capture() || (flags & CU_EVENT_WAIT_EXTERNAL)) return;
  Event* object = state().events.find(value_of(event));
  auto* kept = slot(stream);
  if (!object || !kept) return;
  std::lock_guard guard(g_lock);
  if (!object->capture || object->capture->ended.load(std::memory_order_acquire)) return;
  if (!*kept || (*kept)->ended.load(std::memory_order_acquire)) *kept = object->capture;
}

CUresult check_legacy(CUstream stream) {
  if (!any_capture() || !is_legacy(stream)) return CUDA_SUCCESS;
  bool implicit = false;
  state().streams.for_each([&](uint64_t, Stream& object) {
    std::lock_guard guard(g_lock);
    if (object.capture && !object.capture->ended.load(std::memory_order_acquire) && object.capture->blocking) {
      implicit = true;
      object.capture->broken.store(true, std::memory_order_release);
    }
  });
  return implicit ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}

void capture_add(Capture& capture, std::shared_ptr<Staging> staging) {
  std::lock_guard guard(g_lock);
  capture.data.staging.push_back(std::move(staging));
}

void capture_add(Capture& capture, std::shared_ptr<GraphMemory> memory) {
  std::lock_guard guard(g_lock);
  capture.data.memory.push_back(std::move(memory));
}

void capture_add(Capture& capture, const GraphData& data) {
  std::lock_guard guard(g_lock);
  capture.data.add(data);
}

void capture_add(Capture& capture, std::shared_ptr<GraphCallback> callback) {
  std::lock_guard guard(g_lock);
  capture.data.callbacks.push_back(std::move(callback));
}

// --- Handlers --------------------------------------------------------------------------------------------------------------

CUresult handle_cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) noexcept {
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  CUresult result = remote_cuStreamBeginCapture_v2(hStream, mode);
  if (result == CUDA_SUCCESS) begin_capture(hStream, 0);
  return result;
}

// The graph's own nodes are not ours to know: what the capture adds to it is remembered with the graph.
CUresult handle_cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode* dependencies,
                                            const CUgraphEdgeData* dependencyData, size_t numDependencies,
                                            CUstreamCaptureMode mode) noexcept {
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  CUresult result =
      remote_cuStreamBeginCaptureToGraph(hStream, hGraph, dependencies, dependencyData, numDependencies, mode);
  if (result == CUDA_SUCCESS) begin_capture(hStream, value_of(hGraph));
  return result;
}

CUresult handle_cuStreamEndCapture(CUstream hStream, CUgraph* phGraph) noexcept {
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  auto capture = capture_of(hStream);
  CUgraph graph = as_handle<CUgraph>(capture ? capture->graph : 0);
  CUresult result = remote_cuStreamEndCapture(hStream, &graph);
  if (result != CUDA_SUCCESS) graph = nullptr;
  bool goes_on = result == CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD || result == CUDA_ERROR_STREAM_CAPTURE_UNMATCHED ||
                 result == CUDA_ERROR_ILLEGAL_STATE;
  if (capture && !goes_on && !capture->ended.exchange(true, std::memory_order_acq_rel)) {
    g_active.fetch_sub(1, std::memory_order_release);
  }
  if (result == CUDA_SUCCESS && capture && capture->broken.load(std::memory_order_acquire)) {
    if (!capture->graph) handle_cuGraphDestroy(graph);
    graph = nullptr;
    result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  if (phGraph) *phGraph = graph;
  if (result != CUDA_SUCCESS) return result;
  if (capture) {
    std::lock_guard guard(g_lock);
    if (Graph* object = state().graphs.find(value_of(graph))) object->data.add(std::exchange(capture->data, {}));
  }
  return result;
}

CUresult handle_cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus* captureStatus) noexcept {
  if (!captureStatus) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (is_legacy(hStream) && !current_context()) return CUDA_ERROR_INVALID_CONTEXT;
  if (CUresult result = check_legacy(hStream); result != CUDA_SUCCESS) return result;
  auto capture = capture_of(hStream);
  *captureStatus = !capture ? CU_STREAM_CAPTURE_STATUS_NONE
                   : capture->broken.load(std::memory_order_acquire) ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                                                      : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  if (capture && capture->broken.load(std::memory_order_acquire)) return CUDA_SUCCESS;
  if (!capture || capture->troubles == Session::get()->capture_troubles()) return CUDA_SUCCESS;
  WorkerView view;
  CUresult result = ask_worker(hStream, &view);
  if (result == CUDA_SUCCESS) *captureStatus = view.status;
  return result;
}

CUresult handle_cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus* captureStatus_out, cuuint64_t* id_out,
                                          CUgraph* graph_out, const CUgraphNode** dependencies_out,
                                          const CUgraphEdgeData** edgeData_out, size_t* numDependencies_out) noexcept {
  if (!captureStatus_out) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (CUresult result = check_legacy(hStream); result != CUDA_SUCCESS) return result;
  *captureStatus_out = CU_STREAM_CAPTURE_STATUS_NONE;
  if (!capture_of(hStream)) return CUDA_SUCCESS;
  WorkerView view;
  if (CUresult result = ask_worker(hStream, &view); result != CUDA_SUCCESS) return result;
  // The arrays are the program's until its next call on this stream.
  std::vector<CUgraphNode>& dependencies = this_thread().capture_nodes;
  std::vector<CUgraphEdgeData>& edges = this_thread().capture_edges;
  size_t count = view.dependencies.size() / sizeof(CUgraphNode);
  dependencies.resize(count);
  edges.assign(count, CUgraphEdgeData{});
  std::memcpy(dependencies.data(), view.dependencies.data(), count * sizeof(CUgraphNode));
  std::memcpy(edges.data(), view.edges.data(), std::min(view.edges.size(), count * sizeof(CUgraphEdgeData)));
  *captureStatus_out = view.status;
  if (id_out) *id_out = view.id;
  if (graph_out) *graph_out = as_handle<CUgraph>(view.graph);
  if (dependencies_out) *dependencies_out = dependencies.data();
  if (edgeData_out) *edgeData_out = edges.data();
  if (numDependencies_out) *numDependencies_out = count;
  return CUDA_SUCCESS;
}

CUresult handle_cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus* captureStatus_out, cuuint64_t* id_out,
                                          CUgraph* graph_out, const CUgraphNode** dependencies_out,
                                          size_t* numDependencies_out) noexcept {
  return handle_cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, graph_out, dependencies_out, nullptr,
                                          numDependencies_out);
}

CUresult handle_cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) noexcept {
  if (!mode) return CUDA_ERROR_INVALID_VALUE;
  CUstreamCaptureMode wanted = *mode;
  CUresult result = remote_cuThreadExchangeStreamCaptureMode(mode);
  if (result == CUDA_SUCCESS) this_thread().lane->twin_mode = wanted;
  return result;
}

}  // namespace bf::client
