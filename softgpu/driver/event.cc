#include "softgpu/driver/driver.h"
#include "softgpu/driver/graph.h"
#include "softgpu/driver/stream.h"

namespace bf::softgpu {

EventRegistry& events() {
  static EventRegistry* registry = new EventRegistry;
  return *registry;
}

CUresult record_event(const StreamRef& stream, const std::shared_ptr<Event>& event, uint32_t flags) {
  if (stream->context->device != event->context->device) return CUDA_ERROR_INVALID_HANDLE;
  bool captured = false;
  BF_TRY(capture_event_record(stream, event, flags, &captured));
  if (captured) return CUDA_SUCCESS;
  OperationRef operation = append(*stream, {});
  std::lock_guard lock(event->mutex);
  event->recorded = std::move(operation);
  event->capture = nullptr;
  event->captured_after.clear();
  return CUDA_SUCCESS;
}

CUresult wait_event(const StreamRef& stream, const std::shared_ptr<Event>& event, uint32_t flags) {
  bool captured = false;
  BF_TRY(capture_event_wait(stream, event, flags, &captured));
  if (captured) return CUDA_SUCCESS;
  OperationRef recorded;
  {
    std::lock_guard lock(event->mutex);
    recorded = event->recorded;
  }
  if (recorded && !recorded->done()) append(*stream, {}, {&recorded, 1});
  return CUDA_SUCCESS;
}

namespace {

CUresult find_event(CUevent handle, std::shared_ptr<Event>* event) {
  *event = events().find(handle);
  if (!*event) return CUDA_ERROR_INVALID_HANDLE;
  return usable(*(*event)->context);
}

// The operation that recorded the event; 907 where it was recorded in a capture.
CUresult recorded_operation(Event& event, OperationRef* operation) {
  std::unique_lock lock(event.mutex);
  if (event.capture) {
    std::shared_ptr<Capture> capture = event.capture;
    lock.unlock();
    invalidate_capture(*capture);
    return CUDA_ERROR_CAPTURED_EVENT;
  }
  *operation = event.recorded;
  return CUDA_SUCCESS;
}

}  // namespace

BF_API CUresult cuEventCreate(CUevent* phEvent, unsigned int flags) {
  BF_ENTER();
  constexpr uint32_t kFlags = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  if (!phEvent || (flags & ~kFlags)) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_EVENT_INTERPROCESS) && !(flags & CU_EVENT_DISABLE_TIMING)) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  auto event = std::make_shared<Event>();
  event->context = context;
  event->flags = flags;
  *phEvent = events().add(std::move(event));
  return CUDA_SUCCESS;
}

BF_API CUresult cuEventDestroy_v2(CUevent handle) {
  BF_ENTER();
  return events().remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

BF_API CUresult cuEventRecordWithFlags(CUevent handle, CUstream stream_handle, unsigned int flags) {
  BF_ENTER();
  std::shared_ptr<Event> event;
  BF_TRY(find_event(handle, &event));
  StreamRef stream;
  BF_TRY(find_stream(stream_handle, &stream));
  if (flags > CU_EVENT_RECORD_EXTERNAL) return CUDA_ERROR_INVALID_VALUE;
  return record_event(stream, event, flags);
}

BF_API CUresult cuEventRecord(CUevent handle, CUstream stream) {
  BF_ENTER();
  return cuEventRecordWithFlags(handle, stream, 0);
}

BF_API CUresult cuStreamWaitEvent(CUstream stream_handle, CUevent handle, unsigned int flags) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(stream_handle, &stream));
  std::shared_ptr<Event> event;
  BF_TRY(find_event(handle, &event));
  if (flags > CU_EVENT_WAIT_EXTERNAL) return CUDA_ERROR_INVALID_VALUE;
  return wait_event(stream, event, flags);
}

BF_API CUresult cuEventQuery(CUevent handle) {
  BF_ENTER();
  std::shared_ptr<Event> event;
  BF_TRY(find_event(handle, &event));
  OperationRef recorded;
  BF_TRY(recorded_operation(*event, &recorded));
  if (recorded && !recorded->done()) return CUDA_ERROR_NOT_READY;
  return event->context->fault;
}

BF_API CUresult cuEventSynchronize(CUevent handle) {
  BF_ENTER();
  std::shared_ptr<Event> event;
  BF_TRY(find_event(handle, &event));
  OperationRef recorded;
  BF_TRY(recorded_operation(*event, &recorded));
  if (recorded) recorded->wait();
  flush_printed(*event->context);
  return event->context->fault;
}

BF_API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start_handle, CUevent end_handle) {
  BF_ENTER();
  if (!milliseconds) return CUDA_ERROR_INVALID_HANDLE;  // so says 580.159.04
  std::shared_ptr<Event> start, end;
  BF_TRY(find_event(start_handle, &start));
  BF_TRY(find_event(end_handle, &end));
  if ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
  OperationRef from, to;
  BF_TRY(recorded_operation(*start, &from));
  BF_TRY(recorded_operation(*end, &to));
  if (!from || !to) return CUDA_ERROR_INVALID_HANDLE;
  if (!from->done() || !to->done()) return CUDA_ERROR_NOT_READY;
  *milliseconds = float(double(to->ended_ns() - from->ended_ns()) * 1e-6);
  return CUDA_SUCCESS;
}

BF_API CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}

// Of a green context its own.
static std::vector<StreamRef> streams_of(const ContextRef& context) {
  Context& owner = context->underlying ? *context->underlying : *context;
  std::lock_guard lock(owner.mutex);
  std::vector<StreamRef> all = owner.streams;
  if (context->underlying) std::erase_if(all, [&](const StreamRef& stream) { return stream->green != context; });
  return all;
}

CUresult record_event(const ContextRef& context, CUevent handle) {
  std::shared_ptr<Event> event;
  BF_TRY(find_event(handle, &event));
  std::vector<OperationRef> before;
  for (const StreamRef& stream : streams_of(context)) {
    std::lock_guard lock(stream->context->mutex);
    if (stream->tail) before.push_back(stream->tail);
  }
  OperationRef operation = Scheduler::instance().submit({}, before);
  std::lock_guard event_lock(event->mutex);
  event->recorded = std::move(operation);
  event->capture = nullptr;
  return CUDA_SUCCESS;
}

CUresult wait_event(const ContextRef& context, CUevent handle) {
  std::shared_ptr<Event> event;
  BF_TRY(find_event(handle, &event));
  for (const StreamRef& stream : streams_of(context)) BF_TRY(wait_event(stream, event, 0));
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxRecordEvent(CUcontext handle, CUevent event) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(find_context(handle, &context));
  return record_event(context, event);
}

BF_API CUresult cuCtxWaitEvent(CUcontext handle, CUevent event) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(find_context(handle, &context));
  return wait_event(context, event);
}

}  // namespace bf::softgpu
