// Events.
#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"

namespace bf::client {

CUresult handle_cuEventCreate(CUevent* phEvent, unsigned int Flags) noexcept {
  constexpr unsigned kKnown = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  if (!phEvent || (Flags & ~kKnown)) return CUDA_ERROR_INVALID_VALUE;
  if ((Flags & CU_EVENT_INTERPROCESS) && !(Flags & CU_EVENT_DISABLE_TIMING)) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  CUevent made = nullptr;
  if (CUresult result = post_cuEventCreate(&made, Flags); result != CUDA_SUCCESS) return result;
  Event& event = *state().events.find(value_of(made));
  event.context = current_context();
  event.flags = Flags;
  *phEvent = made;
  return CUDA_SUCCESS;
}

CUresult handle_cuEventDestroy_v2(CUevent hEvent) noexcept {
  if (!state().events.find(value_of(hEvent))) return CUDA_ERROR_INVALID_HANDLE;
  return post_cuEventDestroy_v2(hEvent);
}

CUresult handle_cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags) noexcept {
  if (!state().events.find(value_of(hEvent))) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (flags & ~unsigned(CU_EVENT_RECORD_EXTERNAL)) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = check_legacy(hStream); result != CUDA_SUCCESS) return result;
  CUresult result = post_cuEventRecordWithFlags(hEvent, hStream, flags);
  if (result == CUDA_SUCCESS) capture_recorded(hEvent, hStream, flags);
  return result;
}

CUresult handle_cuEventRecord(CUevent hEvent, CUstream hStream) noexcept {
  return handle_cuEventRecordWithFlags(hEvent, hStream, 0);
}

CUresult handle_cuEventQuery(CUevent hEvent) noexcept {
  if (!state().events.find(value_of(hEvent))) return CUDA_ERROR_INVALID_HANDLE;
  return Session::get()->take_async_error(remote_cuEventQuery(hEvent));
}

CUresult handle_cuEventSynchronize(CUevent hEvent) noexcept {
  if (!state().events.find(value_of(hEvent))) return CUDA_ERROR_INVALID_HANDLE;
  return Session::get()->take_async_error(remote_cuEventSynchronize(hEvent));
}

CUresult handle_cuEventElapsedTime_v2(float* pMilliseconds, CUevent hStart, CUevent hEnd) noexcept {
  if (!pMilliseconds) return CUDA_ERROR_INVALID_HANDLE;  // so says 580.159.04
  Event* start = state().events.find(value_of(hStart));
  Event* end = state().events.find(value_of(hEnd));
  if (!start || !end || ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING)) return CUDA_ERROR_INVALID_HANDLE;
  return remote_cuEventElapsedTime_v2(pMilliseconds, hStart, hEnd);
}

CUresult handle_cuEventElapsedTime(float* pMilliseconds, CUevent hStart, CUevent hEnd) noexcept {
  return handle_cuEventElapsedTime_v2(pMilliseconds, hStart, hEnd);
}

}  // namespace bf::client
