// Streams.
#include <algorithm>

#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/copies.h"

namespace bf::client {

namespace {

uint64_t next_stream_id() { return state().next_stream_id.fetch_add(1, std::memory_order_relaxed); }

// For questions about a stream: the object, or nullptr for a default stream.
CUresult find_stream(CUstream stream, Stream** object) {
  *object = nullptr;
  if (value_of(stream) <= 2) return need_context();
  *object = state().streams.find(value_of(stream));
  return *object ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

// A stream of the current context, as `post(&made)` asks the worker for it.
template <typename Post>
CUresult make_stream(CUstream* out, unsigned flags, int& priority, Post post) {
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  const DeviceSnapshot& device = *device_snapshot(context->device);
  priority = std::clamp(priority, device.greatest_priority, device.least_priority);
  CUstream made = nullptr;
  if (CUresult result = post(&made); result != CUDA_SUCCESS) return result;
  Stream& stream = *state().streams.find(value_of(made));
  stream.context = current_context();
  stream.green = current_green();
  stream.flags = flags;
  stream.priority = priority;
  stream.id = next_stream_id();
  *out = made;
  return CUDA_SUCCESS;
}

}  // namespace

CUresult handle_cuStreamCreateWithPriority(CUstream* phStream, unsigned int flags, int priority) noexcept {
  if (!phStream || (flags & ~unsigned(CU_STREAM_NON_BLOCKING))) return CUDA_ERROR_INVALID_VALUE;
  return make_stream(phStream, flags, priority, [&](CUstream* made) { return post_cuStreamCreateWithPriority(made, flags, priority); });
}

CUresult handle_cuGreenCtxStreamCreate(CUstream* phStream, CUgreenCtx greenCtx, unsigned int flags, int priority) noexcept {
  if (!phStream || flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  GreenContext* green = state().green_contexts.find(value_of(greenCtx));
  if (!green) return CUDA_ERROR_INVALID_CONTEXT;
  CurrentContext current(green->context);
  return make_stream(phStream, flags, priority,
                     [&](CUstream* made) { return post_cuGreenCtxStreamCreate(made, greenCtx, flags, priority); });
}

CUresult handle_cuStreamCreate(CUstream* phStream, unsigned int Flags) noexcept {
  return handle_cuStreamCreateWithPriority(phStream, Flags, 0);
}

CUresult handle_cuStreamDestroy_v2(CUstream hStream) noexcept {
  if (!state().streams.find(value_of(hStream))) return CUDA_ERROR_INVALID_HANDLE;
  CUresult result = post_cuStreamDestroy_v2(hStream);
  if (result != CUDA_SUCCESS) return result;
  result = need_context();  // after a fault the driver says so, and the stream is gone all the same (580.159.04)
  return result == CUDA_ERROR_INVALID_CONTEXT || result == CUDA_ERROR_CONTEXT_IS_DESTROYED ? CUDA_SUCCESS : result;
}

CUresult handle_cuStreamSynchronize(CUstream hStream) noexcept {
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  return Session::get()->take_async_error(just_synchronized(hStream) ? CUDA_SUCCESS : remote_cuStreamSynchronize(hStream));
}

CUresult handle_cuStreamQuery(CUstream hStream) noexcept {
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  return Session::get()->take_async_error(remote_cuStreamQuery(hStream));
}

CUresult handle_cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags) noexcept {
  if (!state().events.find(value_of(hEvent))) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (Flags & ~unsigned(CU_EVENT_WAIT_EXTERNAL)) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  CUresult result = post_cuStreamWaitEvent(hStream, hEvent, Flags);
  if (result == CUDA_SUCCESS) capture_waits(hStream, hEvent, Flags);
  return result;
}

CUresult handle_cuStreamGetFlags(CUstream hStream, unsigned int* flags) noexcept {
  if (!flags) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream;
  if (CUresult result = find_stream(hStream, &stream); result != CUDA_SUCCESS) return result;
  *flags = stream ? stream->flags : 0;
  return CUDA_SUCCESS;
}

CUresult handle_cuStreamGetPriority(CUstream hStream, int* priority) noexcept {
  if (!priority) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream;
  if (CUresult result = find_stream(hStream, &stream); result != CUDA_SUCCESS) return result;
  *priority = stream ? stream->priority : 0;
  return CUDA_SUCCESS;
}

CUresult handle_cuStreamGetCtx(CUstream hStream, CUcontext* pctx) noexcept {
  if (!pctx) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream;
  if (CUresult result = find_stream(hStream, &stream); result != CUDA_SUCCESS) return result;
  const uint64_t green = stream ? stream->green : current_green();
  *pctx = as_handle<CUcontext>(green ? green : stream ? stream->context : current_context());
  return CUDA_SUCCESS;
}

CUresult handle_cuStreamGetCtx_v2(CUstream hStream, CUcontext* pCtx, CUgreenCtx* pGreenCtx) noexcept {
  if (!pCtx || !pGreenCtx) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream;
  if (CUresult result = find_stream(hStream, &stream); result != CUDA_SUCCESS) return result;
  if (hStream == CU_STREAM_PER_THREAD && current_green()) return CUDA_ERROR_INVALID_HANDLE;
  Context* green = state().contexts.find(stream ? stream->green : current_green());
  *pCtx = as_handle<CUcontext>(stream ? stream->context : current_context());
  *pGreenCtx = as_handle<CUgreenCtx>(green ? green->green : 0);
  return CUDA_SUCCESS;
}

CUresult handle_cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx* phCtx) noexcept {
  CUcontext context;
  return handle_cuStreamGetCtx_v2(hStream, &context, phCtx);
}

// The legacy stream is one per context, under both its names; the per-thread default stream is one per thread.
CUresult handle_cuStreamGetId(CUstream hStream, unsigned long long* streamId) noexcept {
  if (!streamId) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream;
  if (CUresult result = find_stream(hStream, &stream); result != CUDA_SUCCESS) return result;
  if (stream) {
    *streamId = stream->id;
  } else if (hStream == CU_STREAM_PER_THREAD) {
    uint64_t& id = this_thread().per_thread_stream_id;
    if (id == 0) id = next_stream_id();
    *streamId = id;
  } else {
    Context& context = *state().contexts.find(current_context());
    uint64_t none = 0;
    if (context.legacy_stream_id.load(std::memory_order_relaxed) == 0) {
      context.legacy_stream_id.compare_exchange_strong(none, next_stream_id());
    }
    *streamId = context.legacy_stream_id.load(std::memory_order_relaxed);
  }
  return CUDA_SUCCESS;
}

CUresult handle_cuStreamGetDevice(CUstream hStream, CUdevice* device) noexcept {
  if (!device) return CUDA_ERROR_INVALID_VALUE;
  CUcontext owner;
  if (CUresult result = handle_cuStreamGetCtx(hStream, &owner); result != CUDA_SUCCESS) return result;
  return handle_cuCtxGetDevice_v2(device, owner);
}

}  // namespace bf::client
