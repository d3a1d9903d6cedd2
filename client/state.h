// What the client knows about the objects of its program. Handlers answer questions and check arguments from it.
//
// Tables are process-wide, like the session; they start with it and are never destroyed. Fields that change after an
// object was made are atomic or behind the object's lock; the rest is written before the program sees the handle.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/futex.h"
#include "client/handle_table.h"
#include "client/ranges.h"
#include "client/session.h"
#include "proto/abi/legacy_launch.h"
#include "proto/api/cuda_api.h"
#include "proto/session.h"

namespace bf::client {

class JitCall;

inline uint64_t value_of(const void* handle) { return reinterpret_cast<uint64_t>(handle); }
template <typename H>
H as_handle(uint64_t value) {
  return reinterpret_cast<H>(value);
}

// --- Contexts (client/contexts.h) ----------------------------------------------------------------------------------------

struct Context {
  int device = 0;
  bool primary = false;
  uint64_t owner = 0;                // of a green context: the primary one, whose are the objects that are made in it
  uint64_t green = 0;                // of a green context: its CUgreenCtx
  uint64_t id = 0;                   // cuCtxGetId: 1, 2, ...; never reused
  std::atomic<uint32_t> flags{0};
  std::atomic<uint32_t> api_version{0};
  std::atomic<uint32_t> epoch{0};    // odd: alive; counts up at each creation and destruction
  std::atomic<uint64_t> legacy_stream_id{0};
  uint32_t retains = 0;              // primary only, under lock
  SpinLock lock;                     // of id

  bool alive() const { return epoch.load(std::memory_order_acquire) & 1; }
};

struct GreenContext {
  uint64_t context = 0;  // what cuCtxFromGreenCtx gives
};

// --- Streams, events, captures (client/capture.h) --------------------------------------------------------------------------

// Memory of the worker that stands for host memory inside a graph. Freed when the last graph that uses it is gone.
struct Staging {
  Staging(CUdeviceptr address, const HostLayout& host) : address(address), host(host) {}
  ~Staging();
  const CUdeviceptr address;
  const HostLayout host;
};

// A host function that a graph runs; its id in Callbacks.
struct GraphCallback {
  explicit GraphCallback(uint64_t id) : id(id) {}
  ~GraphCallback();
  const uint64_t id;
};

// The address of memory that an allocation node makes: device memory of the program as long as a graph has the node.
struct GraphMemory {
  explicit GraphMemory(CUdeviceptr address) : address(address) {}
  ~GraphMemory();
  const CUdeviceptr address;
};

// An object of the program that graphs keep alive; its destructor runs when nobody refers to it any more.
struct UserObject {
  void release(uint64_t count);  // more than there are: all
  std::atomic<uint64_t> references{0};
  uint64_t handle = 0;
  CUhostFn destroy = nullptr;
  void* data = nullptr;
};

// What one graph holds of it; copies of the graph share that.
struct UserReference {
  UserReference(std::shared_ptr<UserObject> object, uint64_t count) : object(std::move(object)), count(count) {}
  ~UserReference() { object->release(count); }
  UserReference(const UserReference&) = delete;
  const std::shared_ptr<UserObject> object;
  const uint64_t count;
};

// What a graph keeps alive in this process. Copied when the graph is cloned, nested or instantiated.
struct GraphData {
  std::vector<std::shared_ptr<Staging>> staging;
  std::vector<std::shared_ptr<GraphCallback>> callbacks;
  std::vector<std::shared_ptr<GraphMemory>> memory;
  std::vector<std::shared_ptr<UserReference>> user_objects;

  void add(const GraphData& other);
};

struct Capture {
  uint64_t origin = 0;            // stream value
  bool blocking = false;          // the origin stream synchronises with the legacy stream
  uint64_t graph = 0;             // value of the graph it captures to; 0: a new one
  uint64_t troubles = 0;          // capture errors the session had seen when it began
  std::atomic<bool> ended{false};
  std::atomic<bool> broken{false};  // by a call that was refused here: the worker's capture goes on
  GraphData data;                 // under the captures' lock
};

struct Stream {
  uint64_t context = 0;
  uint64_t green = 0;  // the context of the green context that it was made in
  uint32_t flags = 0;
  int priority = 0;
  uint64_t id = 0;
  std::shared_ptr<Capture> capture;  // under captures' lock
};

struct Event {
  uint64_t context = 0;
  uint32_t flags = 0;
  std::shared_ptr<Capture> capture;  // the capture it was last recorded in; under captures' lock
};

struct Graph {
  GraphData data;
  std::vector<uint64_t> nodes;   // those that handlers here made: their handles end with the graph's
  std::vector<uint64_t> bodies;  // graphs of its conditional nodes
};

// What questions about a node handed out: the program may read it until the node's parameters change or the node is
// gone. Nodes that the worker named keep it until the worker uses the value's slot again.
struct GraphNode {
  SpinLock lock;  // of everything below
  const void* code = nullptr;
  std::vector<std::byte> parameters;
  std::vector<void*> pointers;
  std::vector<CUmemAccessDesc> access;
  std::vector<CUstreamBatchMemOpParams> operations;
  std::vector<CUgraph> bodies;
  GraphData data;  // of parameters that were changed after the node was made
};

// A copy through staging that an executable graph does.
struct StagedCopy {
  std::shared_ptr<Staging> staging;
  uint32_t flags = 0;  // GraphPart::Flags
};

struct GraphExec {
  GraphData data;
  std::vector<StagedCopy> copies;
  bool skips_nodes = false;  // a node was disabled: staging may come back as it was
  CUstream stream = nullptr;  // of the latest launch ...
  uint64_t context = 0;       // ... in this context; 0: never launched
  CUevent done = nullptr;     // recorded behind each launch that has copies
};

// --- Code ------------------------------------------------------------------------------------------------------------------

// A CUfunction or a CUkernel.
struct Function {
  static bool changeable(CUfunction_attribute which);  // by the program
  struct Occupancy {  // a question and its answer
    int threads;
    size_t dynamic_bytes;
    unsigned flags;
    int carveout, dynamic_limit;
    uint64_t context;
    int blocks;
    bool same_question(const Occupancy& other) const {
      return threads == other.threads && dynamic_bytes == other.dynamic_bytes && flags == other.flags &&
             carveout == other.carveout && dynamic_limit == other.dynamic_limit && context == other.context;
    }
  };

  // Of one device. A kernel's function follows the kernel in what it was not given itself, and the kernel never follows it
  // (580.159.04).
  struct Attributes {
    std::array<std::atomic<int>, CU_FUNC_ATTRIBUTE_MAX> values{};
    std::array<std::atomic<bool>, CU_FUNC_ATTRIBUTE_MAX> known{};
    std::shared_ptr<const Attributes> followed;  // of the kernel
    std::atomic<int> granted_shared{-1};         // the most dynamic shared memory that the driver has granted so far

    const Attributes* holder(CUfunction_attribute which) const {
      if (known[which].load(std::memory_order_relaxed)) return this;
      return followed ? followed->holder(which) : nullptr;
    }
    void set(CUfunction_attribute which, int value) {
      values[which].store(value, std::memory_order_relaxed);
      known[which].store(true, std::memory_order_relaxed);
    }
  };

  bool kernel = false;
  std::string name;
  uint64_t owner = 0;                      // CUmodule, or CUlibrary of a kernel
  uint64_t of_kernel = 0;                  // a function got from a kernel
  uint64_t context = 0;                    // of a function
  bool parameters_known = false;
  std::vector<ParameterInfo> parameters;
  uint32_t parameter_bytes = 0;            // of the packed buffer
  std::vector<std::shared_ptr<Attributes>> attributes{std::make_shared<Attributes>()};  // of a kernel: by device
  std::atomic<bool> left{false};           // of a kernel: a function of it no longer follows it in everything
  SpinLock lock;
  std::vector<std::pair<uint64_t, uint64_t>> functions;  // of a kernel: context -> function; under lock
  std::vector<Occupancy> occupancies;                    // under lock
  std::mutex legacy_mutex;                               // held through a launch
  std::unique_ptr<abi::LegacyLaunch> legacy;             // of programs that use cuLaunchGrid

  const std::shared_ptr<Attributes>& on(int device) const { return attributes[kernel ? size_t(device) : 0]; }
  // 0 for an attribute that the driver did not tell.
  int attribute(CUfunction_attribute which, int device) const {
    const Attributes* holder = on(device)->holder(which);
    return holder ? holder->values[which].load(std::memory_order_relaxed) : 0;
  }
  void set(const FunctionFacts& facts);
};

// A CUmodule or a CUlibrary.
struct Module {
  uint64_t context = 0;      // of a module
  uint64_t library = 0;      // a library's module
  SpinLock lock;
  std::unordered_map<std::string, uint64_t> functions;      // by name: functions of a module, kernels of a library
  std::vector<std::pair<uint64_t, uint64_t>> modules;       // of a library: context -> module
  std::vector<uint64_t> globals;                            // addresses: ranges to forget with it
};

// A link in progress (client/link.cc).
struct Link {
  std::shared_ptr<JitCall> options;  // the program keeps their values and log buffers until the link is destroyed
  std::vector<std::byte> image;      // what cuLinkComplete gave out
};

struct Nothing {};  // kinds the client only names

// Objects that others own, by number.
template <typename T>
class SharedById {
 public:
  void add(uint64_t id, const std::shared_ptr<T>& object) {
    std::lock_guard guard(lock_);
    objects_[id] = object;
  }
  void remove(uint64_t id) {
    std::lock_guard guard(lock_);
    objects_.erase(id);
  }
  std::shared_ptr<T> find(uint64_t id) const {
    std::lock_guard guard(lock_);
    auto found = objects_.find(id);
    return found == objects_.end() ? nullptr : found->second.lock();
  }

 private:
  mutable SpinLock lock_;
  std::unordered_map<uint64_t, std::weak_ptr<T>> objects_;
};

// --- The tables -------------------------------------------------------------------------------------------------------------

struct State {
  HandleTable<Context, HandleKind::kContext> contexts;
  HandleTable<Stream, HandleKind::kStream> streams;
  HandleTable<Event, HandleKind::kEvent> events;
  HandleTable<Module, HandleKind::kModule> modules;
  HandleTable<Module, HandleKind::kLibrary> libraries;
  HandleTable<Function, HandleKind::kFunction> functions;
  HandleTable<Function, HandleKind::kKernel> kernels;
  HandleTable<Graph, HandleKind::kGraph> graphs;
  HandleTable<GraphNode, HandleKind::kGraphNode> graph_nodes;
  HandleTable<GraphExec, HandleKind::kGraphExec> graph_execs;
  HandleTable<std::shared_ptr<UserObject>, HandleKind::kUserObject> user_objects;
  HandleTable<Link, HandleKind::kLinkState> links;
  HandleTable<GreenContext, HandleKind::kGreenContext> green_contexts;
  std::array<std::unique_ptr<HandleMakerBase>, size_t(HandleKind::kCount)> others;  // the kinds without a table above
  RangeTable ranges;
  SharedById<Staging> staging;          // by address
  SharedById<GraphCallback> callbacks;  // by id
  std::atomic<uint64_t> next_stream_id{1};

  State();
  HandleMakerBase* maker(HandleKind kind);
  // A CUfunction, or a CUkernel cast to one.
  Function* code(const void* handle) const {
    uint64_t value = value_of(handle);
    return Handle::unpack(value).kind == HandleKind::kKernel ? kernels.find(value) : functions.find(value);
  }
};

State& state();

// --- The calling thread ------------------------------------------------------------------------------------------------------

struct ThreadState {
  std::vector<uint64_t> contexts;  // the stack of current contexts; back() is current
  Lane* lane = nullptr;
  std::vector<std::byte> scratch;  // body of the call being made
  uint64_t per_thread_stream_id = 0;
  struct {
    CUstream stream = nullptr;
    uint64_t context = 0;
    uint64_t appended = 0;  // by all threads, up to and with the question; 0: none
  } idle;  // the stream that a copy has just waited for (client/copies.h)
  std::shared_ptr<Capture> capture;  // of the per-thread default stream; under the captures' lock
  std::vector<CUgraphNode> capture_nodes;  // what cuStreamGetCaptureInfo last gave out
  std::vector<CUgraphEdgeData> capture_edges;
};

// The calling thread's state, made on first use; nullptr only from find_thread().
ThreadState& this_thread();
ThreadState* find_thread();

// --- Checks that most handlers begin with --------------------------------------------------------------------------------------

// The calling thread's current context: INVALID_CONTEXT if there is none, CONTEXT_IS_DESTROYED if it is not alive, the
// sticky error if it has one.
CUresult need_context(Context** context = nullptr);

// INVALID_HANDLE unless it is a default stream or a live one.
inline CUresult need_stream(CUstream stream) {
  if (value_of(stream) <= 2 || state().streams.find(value_of(stream))) return CUDA_SUCCESS;
  return CUDA_ERROR_INVALID_HANDLE;
}

inline const DeviceSnapshot* device_snapshot(int device) {
  Session* session = Session::get();
  if (!session || device < 0 || size_t(device) >= session->snapshot().devices.size()) return nullptr;
  return &session->snapshot().devices[size_t(device)];
}

// 0 for an attribute the driver does not know. `device` must be known.
int device_attribute(int device, CUdevice_attribute attribute);
const int* device_attributes(int device);  // by attribute

}  // namespace bf::client
