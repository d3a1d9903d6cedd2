// What the generated stubs and encoders ask of the client (proto/api/call_channel.h).
#include "base/log.h"
#include "client/contexts.h"
#include "api/remote.h"
#include "proto/abi/error_log.h"
#include "proto/api/wire.h"

namespace bf::client {

CUresult enter_slow() noexcept { return Session::gate(); }

CUresult denied(const char* symbol, std::atomic<uint32_t>& count) noexcept {
  if (count.fetch_add(1, std::memory_order_relaxed) == 0) BF_DEBUG("{} is not supported", symbol);
  abi::log_error(symbol, CUDA_ERROR_NOT_SUPPORTED);
  return CUDA_ERROR_NOT_SUPPORTED;
}

void log_refusal(const char* symbol, CUresult result) noexcept {
  BF_DEBUG("{} returns {}", symbol, int(result));
  // In a forked child the log's lock may be held by a thread that is not there.
  if (result != CUDA_ERROR_NOT_INITIALIZED) abi::log_error(symbol, result);
}

namespace {

// What a call gets that can no longer be made. While the session starts, the gate is not open yet.
CUresult gone() {
  CUresult gate = Session::gate();
  return gate == CUDA_SUCCESS || gate == CUDA_ERROR_NOT_INITIALIZED ? CUDA_ERROR_DEVICE_UNAVAILABLE : gate;
}

}  // namespace

CUresult begin(size_t body_bound, std::byte*& body) noexcept {
  Session* session = Session::get();
  if (!session) return Session::gate();
  if (Callbacks::inside()) [[unlikely]] return CUDA_ERROR_NOT_PERMITTED;
  ThreadState& thread = this_thread();
  if (!thread.lane) [[unlikely]] {
    thread.lane = session->acquire_lane();
    if (!thread.lane) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  use_current_context(thread);
  if (thread.scratch.size() < body_bound) thread.scratch.resize(body_bound);
  body = thread.scratch.data();
  return CUDA_SUCCESS;
}

CUresult finish_post(uint16_t opcode, uint16_t flags, size_t body_bytes, const Payload& payload) noexcept {
  ThreadState& thread = this_thread();
  Bytes body(thread.scratch.data(), body_bytes);
  if (watched()) [[unlikely]] watch_sent(sizeof(FrameHeader) + body_bytes + payload.bytes, false);
  return Session::get()->post(*thread.lane, opcode, flags, body, payload) ? CUDA_SUCCESS : gone();
}

CUresult finish_call(uint16_t opcode, uint16_t flags, size_t body_bytes, const Payload& payload, Reply& reply) noexcept {
  ThreadState& thread = this_thread();
  Session& session = *Session::get();
  Lane& lane = *thread.lane;
  if (watched()) [[unlikely]] watch_sent(sizeof(FrameHeader) + body_bytes + payload.bytes, true);
  WatchWait waiting("wait for the answer");
  if (session.call(lane, opcode, flags, {thread.scratch.data(), body_bytes}, payload) != CUDA_SUCCESS) return gone();
  std::span<const std::byte> answer(lane.reply);
  if (watched()) [[unlikely]] watch_bytes_down(sizeof(FrameHeader) + answer.size());
  wire::ReplyHead head;
  if (!wire::read_reply_head(answer.first(lane.reply_body_bytes), head, reply.outs)) return malformed_reply("a call");
  reply.payload = answer.subspan(lane.reply_body_bytes);
  reply.result = CUresult(head.result);
  if (session.settle(head.watermark) != CUDA_SUCCESS) return gone();
  session.note_result(reply.result);
  if (reply.result == CUDA_ERROR_INVALID_CONTEXT && current_context()) {
    // The twin has no context because ours is dead; the program hears of the latter.
    Context* context = state().contexts.find(current_context());
    if (!context || !context->alive()) reply.result = CUDA_ERROR_CONTEXT_IS_DESTROYED;
  }
  return CUDA_SUCCESS;
}

CUresult malformed_reply(const char* name) noexcept {
  Session::get()->lose(Status(StatusCode::kInvalid, std::string("the server's reply to ") + name + " is malformed"));
  return gone();
}

uint64_t make_handle(HandleKind kind) noexcept {
  HandleMakerBase* maker = state().maker(kind);
  return maker ? maker->make() : 0;
}

void drop_handle(uint64_t value) noexcept {
  HandleMakerBase* maker = Handle::plausible(value) ? state().maker(Handle::unpack(value).kind) : nullptr;
  if (maker == &state().contexts) {
    Context* context = state().contexts.find(value);
    if (context && context->primary) return;  // stays for the life of the process
  }
  if (maker) maker->erase(value);
}

}  // namespace bf::client
