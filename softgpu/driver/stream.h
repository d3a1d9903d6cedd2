// Streams and events.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "softgpu/driver/context.h"
#include "softgpu/driver/scheduler.h"
#include "softgpu/driver/work.h"

namespace bf::softgpu {

struct Capture;
struct GraphNode;

struct Stream : std::enable_shared_from_this<Stream> {
  CUstream handle = nullptr;
  ContextRef context;
  ContextRef green;  // the green context that it was made in
  uint64_t id = 0;
  uint32_t flags = 0;
  int priority = 0;
  bool legacy = false;
  OperationRef tail;  // guarded by context->mutex
  static constexpr uint32_t kLaunches = 1020;  // at most: the next waits in cuLaunchKernel (measured, driver 580.159.04)
  std::atomic<uint32_t> launches{0};           // queued
  CUaccessPolicyWindow access_window{};
  CUsynchronizationPolicy sync_policy = CU_SYNC_POLICY_AUTO;

  // Guarded by capture_mutex().
  std::shared_ptr<Capture> capture;
  std::vector<std::shared_ptr<GraphNode>> frontier;  // what the next captured node depends on

  bool blocking() const { return !(flags & CU_STREAM_NON_BLOCKING); }
};
using StreamRegistry = Registry<CUstream, Stream, ObjectKind::kStream>;
StreamRegistry& streams();

// What a recorded event stands for.
struct Event {
  CUevent handle = nullptr;
  ContextRef context;
  uint32_t flags = 0;
  std::mutex mutex;
  OperationRef recorded;  // nullptr: never recorded, which counts as done
  // The event was last recorded in a capture, after these nodes.
  std::shared_ptr<Capture> capture;
  std::vector<std::shared_ptr<GraphNode>> captured_after;
};
using EventRegistry = Registry<CUevent, Event, ObjectKind::kEvent>;
EventRegistry& events();

std::shared_ptr<Stream> make_stream(const ContextRef& context, uint32_t flags, int priority);
// Resolves NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD and handles, and checks that the context is usable.
CUresult find_stream(CUstream handle, StreamRef* stream);
CUresult default_stream(StreamRef* stream);

// How a queued piece of work meets its caller.
enum class Delivery { kAsync, kWait };

// Queues work at the end of a stream, or captures it when the stream captures. kWait returns after it ran, with the
// fault of the context if there is one, and is refused in a capture.
CUresult enqueue(const StreamRef& stream, Work work, Delivery delivery = Delivery::kAsync);
// Queues behind the stream's tail and `extra`; never captures. The operation becomes the stream's tail.
OperationRef append(Stream& stream, std::function<void()> function, std::span<const OperationRef> extra = {});
// The operations that must end before anything new in the stream may start.
std::vector<OperationRef> stream_predecessors(Stream& stream);
CUresult check_memory_operation(const CUstreamBatchMemOpParams& operation);
CUresult record_event(const StreamRef& stream, const std::shared_ptr<Event>& event, uint32_t flags);
CUresult wait_event(const StreamRef& stream, const std::shared_ptr<Event>& event, uint32_t flags);
// All streams of a context (of a green one: its own) before the event, or behind it.
CUresult record_event(const ContextRef& context, CUevent event);
CUresult wait_event(const ContextRef& context, CUevent event);

}  // namespace bf::softgpu
