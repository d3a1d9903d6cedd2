// What graphs keep alive in this process: staging, host functions, memory of allocation nodes, user objects.
#include <algorithm>

#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/graphs.h"

namespace bf::client {

namespace {

// Staging that lost its last graph on the callback thread, which must not send calls: a launch queue that waits for a
// host function would wait for ever. The next thread that makes or gives up staging frees it.
SpinLock g_lock;
std::vector<CUdeviceptr>& to_free() {
  static auto* list = new std::vector<CUdeviceptr>;
  return *list;
}

void free_later(CUdeviceptr staging) {
  std::lock_guard guard(g_lock);
  to_free().push_back(staging);
}

void free_now() {
  std::vector<CUdeviceptr> list;
  {
    std::lock_guard guard(g_lock);
    list.swap(to_free());
  }
  for (CUdeviceptr staging : list) post_bfStagingFree(staging);
}

}  // namespace

Staging::~Staging() {
  state().staging.remove(address);
  free_later(address);
  if (!Callbacks::inside()) free_now();
}

GraphCallback::~GraphCallback() {
  state().callbacks.remove(id);
  Session::get()->callbacks().remove(id);
}

GraphMemory::~GraphMemory() { state().ranges.remove(address, Range::Kind::kDevice); }

void UserObject::release(uint64_t count) {
  uint64_t have = references.load(std::memory_order_relaxed);
  while (!references.compare_exchange_weak(have, have - std::min(have, count), std::memory_order_acq_rel)) {
  }
  if (have == 0 || have > count) return;
  drop_handle(handle);
  Callbacks::Inside inside;  // it may make no CUDA call (NOT_PERMITTED, 580.159.04)
  destroy(data);
}

void GraphData::add(const GraphData& other) {
  staging.insert(staging.end(), other.staging.begin(), other.staging.end());
  callbacks.insert(callbacks.end(), other.callbacks.begin(), other.callbacks.end());
  memory.insert(memory.end(), other.memory.begin(), other.memory.end());
  user_objects.insert(user_objects.end(), other.user_objects.begin(), other.user_objects.end());
}

std::shared_ptr<Staging> make_staging(const HostLayout& host, CUresult* result) {
  free_now();
  uint64_t address = 0;
  *result = remote_bfStagingAlloc(host.bytes(), address);
  if (*result != CUDA_SUCCESS) return nullptr;
  auto staging = std::make_shared<Staging>(address, host);
  state().staging.add(address, staging);
  return staging;
}

std::shared_ptr<GraphCallback> make_callback(CUhostFn function, void* user) {
  Callbacks::Function entry;
  entry.function = function;
  entry.user = user;
  entry.repeats = true;
  return keep_callback(Session::get()->callbacks().add(entry));
}

std::shared_ptr<GraphCallback> keep_callback(uint64_t id) {
  auto callback = std::make_shared<GraphCallback>(id);
  state().callbacks.add(id, callback);
  return callback;
}

// --- graphs.h ------------------------------------------------------------------------------------------------------------

std::shared_ptr<GraphMemory> remember_graph_memory(CUdeviceptr address, size_t bytes, int device) {
  Range range;
  range.base = address;
  range.bytes = bytes;
  range.context = current_context();
  range.device = device;
  state().ranges.insert(range);
  return std::make_shared<GraphMemory>(address);
}

Graph* graph_object(CUgraph graph) {
  Graph* known = state().graphs.find(value_of(graph));
  return known ? known : state().graphs.adopt(value_of(graph));
}

GraphNode* node_object(CUgraphNode node) {
  GraphNode* known = state().graph_nodes.find(value_of(node));
  return known ? known : state().graph_nodes.adopt(value_of(node));
}

GraphData data_of(CUgraph graph) {
  Graph* object = state().graphs.find(value_of(graph));
  if (!object) return {};
  GraphData data = object->data;
  for (uint64_t body : object->bodies) data.add(data_of(as_handle<CUgraph>(body)));
  return data;
}

bool set_parts(GraphExec& exec, std::span<const std::byte> parts) {
  if (parts.size() % sizeof(GraphPart)) return false;
  std::vector<GraphPart> list(parts.size() / sizeof(GraphPart));
  if (!list.empty()) std::memcpy(list.data(), parts.data(), parts.size());
  std::vector<StagedCopy> copies;  // both lists before the old ones go, which may hold the last reference
  std::vector<std::shared_ptr<GraphCallback>> callbacks;
  for (const GraphPart& part : list) {
    if (part.function) {
      if (auto callback = state().callbacks.find(part.function)) callbacks.push_back(std::move(callback));
    } else if (auto staging = state().staging.find(part.staging)) {
      copies.push_back({std::move(staging), part.flags});
    }
  }
  exec.copies.swap(copies);
  exec.data.callbacks.swap(callbacks);
  return true;
}

namespace {

void CUDA_CB let_go(void* data) { delete static_cast<GraphData*>(data); }

}  // namespace

// What a graph that still runs refers to lives until it has run: it is let go behind it, in its stream.
void let_go_after_run(GraphExec& exec) {
  auto data = std::make_unique<GraphData>(std::move(exec.data));
  for (StagedCopy& copy : exec.copies) data->staging.push_back(std::move(copy.staging));
  exec.copies.clear();
  if (!exec.done) return;
  const CUevent done = std::exchange(exec.done, nullptr);
  std::optional<CurrentContext> current;
  if (state().contexts.find(exec.context)) current.emplace(exec.context);
  if (current && remote_cuEventQuery(done) == CUDA_ERROR_NOT_READY) {
    if (need_stream(exec.stream) == CUDA_SUCCESS && exec.stream != CU_STREAM_PER_THREAD && !capture_of(exec.stream)) {
      Callbacks::Function entry;
      entry.function = let_go;
      entry.user = data.get();
      Callbacks& callbacks = Session::get()->callbacks();
      const uint64_t id = callbacks.add(entry);
      if (post_cuLaunchHostFunc(exec.stream, nullptr, nullptr, id) == CUDA_SUCCESS) {
        data.release();
      } else {
        callbacks.remove(id);
      }
    } else {
      remote_cuEventSynchronize(done);
    }
  }
  post_cuEventDestroy_v2(done);
}

// --- User objects --------------------------------------------------------------------------------------------------------

namespace {

std::shared_ptr<UserObject> user_object(CUuserObject object) {
  auto* kept = state().user_objects.find(value_of(object));
  return kept ? *kept : nullptr;
}

// Beyond, the driver says INVALID_VALUE (INT_MAX; cuda.h 13.0).
bool countable(unsigned count) { return count > 0 && count <= unsigned(INT_MAX); }

}  // namespace

CUresult handle_cuUserObjectCreate(CUuserObject* object_out, void* ptr, CUhostFn destroy, unsigned int initialRefcount,
                                   unsigned int flags) noexcept {
  if (!object_out || !destroy || !countable(initialRefcount) || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const uint64_t value = make_handle(HandleKind::kUserObject);
  if (!value) return CUDA_ERROR_OUT_OF_MEMORY;
  auto object = std::make_shared<UserObject>();
  object->references = initialRefcount;
  object->handle = value;
  object->destroy = destroy;
  object->data = ptr;
  *state().user_objects.find(value) = std::move(object);
  *object_out = as_handle<CUuserObject>(value);
  return CUDA_SUCCESS;
}

CUresult handle_cuUserObjectRetain(CUuserObject object, unsigned int count) noexcept {
  auto kept = user_object(object);
  if (!kept || !countable(count)) return CUDA_ERROR_INVALID_VALUE;
  kept->references.fetch_add(count, std::memory_order_acq_rel);
  return CUDA_SUCCESS;
}

CUresult handle_cuUserObjectRelease(CUuserObject object, unsigned int count) noexcept {
  auto kept = user_object(object);
  if (!kept || !countable(count)) return CUDA_ERROR_INVALID_VALUE;
  kept->release(count);
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count, unsigned int flags) noexcept {
  auto kept = user_object(object);
  Graph* holder = graph_object(graph);
  if (!kept || !holder || !countable(count) || (flags & ~unsigned(CU_GRAPH_USER_OBJECT_MOVE))) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!(flags & CU_GRAPH_USER_OBJECT_MOVE)) kept->references.fetch_add(count, std::memory_order_acq_rel);
  holder->data.user_objects.push_back(std::make_shared<UserReference>(std::move(kept), count));
  return CUDA_SUCCESS;
}

CUresult handle_cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int count) noexcept {
  auto kept = user_object(object);
  Graph* holder = graph_object(graph);
  if (!kept || !holder || !countable(count)) return CUDA_ERROR_INVALID_VALUE;
  auto& held = holder->data.user_objects;
  std::vector<std::shared_ptr<UserReference>> given_up;  // destructors run when the list is right again
  for (auto reference = held.begin(); reference != held.end() && count > 0;) {
    if ((*reference)->object != kept) {
      ++reference;
      continue;
    }
    const uint64_t part = std::min<uint64_t>(count, (*reference)->count);
    const uint64_t rest = (*reference)->count - part;
    given_up.push_back(std::move(*reference));
    if (rest > 0) {
      kept->references.fetch_add(rest, std::memory_order_acq_rel);
      *reference++ = std::make_shared<UserReference>(kept, rest);
    } else {
      reference = held.erase(reference);
    }
    count -= unsigned(part);
  }
  return CUDA_SUCCESS;
}

}  // namespace bf::client
