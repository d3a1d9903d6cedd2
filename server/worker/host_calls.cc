#include "server/worker/host_calls.h"

#include <pthread.h>

#include "proto/control.h"
#include "proto/frame_buffer.h"
#include "server/worker/session.h"

namespace bf::server {

HostCalls::~HostCalls() {
  stop();
  join();
}

void HostCalls::start() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "bf-side");
    side_loop();
  });
}

void HostCalls::stop() {
  std::lock_guard guard(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

void HostCalls::join() {
  if (thread_.joinable()) thread_.join();
}

void* HostCalls::argument(uint64_t id, bool repeats, std::vector<StagingRef> deliver, std::vector<StagingRef> fetch) {
  auto function = std::make_unique<Function>(Function{this, id, repeats, std::move(deliver), std::move(fetch)});
  Function* raw = function.get();
  std::lock_guard guard(mutex_);
  functions_.emplace(raw, std::move(function));
  return raw;
}

void* HostCalls::argument_like(void* other, uint64_t id) {
  const auto* function = static_cast<Function*>(other);
  return argument(id, function->repeats, function->deliver, function->fetch);
}

uint64_t HostCalls::id_of(void* argument) { return static_cast<Function*>(argument)->id; }

bool HostCalls::moves_data(void* argument) {
  const auto* function = static_cast<Function*>(argument);
  return !function->deliver.empty() || !function->fetch.empty();
}

void HostCalls::forget(void* argument) {
  std::lock_guard guard(mutex_);
  functions_.erase(static_cast<Function*>(argument));
}

void CUDA_CB HostCalls::run(void* argument) {
  auto* function = static_cast<Function*>(argument);
  function->owner->ask(*function, CUDA_SUCCESS);
}

void CUDA_CB HostCalls::run_callback(CUstream, CUresult status, void* argument) {
  auto* function = static_cast<Function*>(argument);
  function->owner->ask(*function, status);
}

// On the driver's thread: no CUDA call is allowed here, and none is made.
void HostCalls::ask(Function& function, CUresult status) {
  if (mirrors_.live()) mirrors_.collect_elsewhere();
  const Outbox::Mark mark = outbox_.flush();
  {
    std::lock_guard guard(mutex_);
    if (stopped_) return;
    ++asked_[function.id];
  }
  control::CallbackNotice notice;
  notice.id = function.id;
  notice.status = uint32_t(status);
  notice.watermark = mark.watermark;
  notice.data_frames = mark.data_frames;
  for (const StagingRef& staging : function.fetch) {
    const uint64_t address = *staging;
    notice.wanted.append(reinterpret_cast<const char*>(&address), sizeof(address));
  }
  for (const StagingRef& staging : function.deliver)
    if (Status sent = deliver(*staging); !sent.ok()) return end_(sent);
  const std::string body = control::encode_CallbackNotice(notice);
  FrameHeader header{uint32_t(body.size()), 0, uint16_t(Opcode::kCallback), 0, 0};
  const iovec parts[] = {{&header, sizeof(header)}, {const_cast<char*>(body.data()), body.size()}};
  Status sent;
  {
    std::lock_guard guard(send_mutex_);
    sent = side_.send(parts);
  }
  if (!sent.ok()) return end_(sent);
  std::unique_lock guard(mutex_);
  const uint64_t id = function.id;
  changed_.wait(guard, [&] { return stopped_ || asked_[id] == 0; });
  if (asked_[id] == 0) asked_.erase(id);
  if (!function.repeats) functions_.erase(&function);
}

Status HostCalls::deliver(uint64_t staging) {
  Status sent;
  staging_.read(staging, [&](uint64_t offset, std::span<const std::byte> bytes) {
    if (!sent.ok()) return;
    const std::string body = control::encode_HostData({staging, offset});
    FrameHeader header{uint32_t(body.size()), uint32_t(bytes.size()), uint16_t(Opcode::kHostData), 0, 0};
    const iovec parts[] = {{&header, sizeof(header)},
                           {const_cast<char*>(body.data()), body.size()},
                           {const_cast<std::byte*>(bytes.data()), bytes.size()}};
    std::lock_guard guard(send_mutex_);
    sent = side_.send(parts);
  });
  return sent;
}

Status HostCalls::read_done(std::span<const std::byte> body) {
  auto notice = control::decode_CallbackNotice(body);
  if (!notice.ok()) return notice.status();
  std::lock_guard guard(mutex_);
  const auto found = asked_.find(notice->id);
  if (found == asked_.end() || found->second == 0)
    return Status(StatusCode::kInvalid, "the client answers a host function that nobody asked for");
  --found->second;
  changed_.notify_all();
  return {};
}

// What a host function wrote to mirrored memory: there before the stream goes on.
Status HostCalls::read_changes(std::span<const std::byte> patches) {
  return mirrors_.apply_side(patches);
}

Status HostCalls::read_data(std::span<const std::byte> body, std::span<const std::byte> bytes) {
  auto notice = control::decode_HostData(body);
  if (!notice.ok()) return notice.status();
  if (staging_.write(notice->staging, notice->offset, bytes)) return {};
  return Status(StatusCode::kInvalid, "the client sent data for staging that does not exist");
}

namespace {

// Changes of mirrored memory are payload alone, ends of functions body alone; data of staging has both.
bool well_formed(const FrameHeader& header) {
  switch (Opcode(header.opcode)) {
    case Opcode::kCallbackDone: return header.body_bytes <= limits::kControlBodyBytes && header.payload_bytes == 0;
    case Opcode::kTrace: return header.body_bytes == 0 && header.payload_bytes == 0;
    case Opcode::kHostChanges: return header.body_bytes == 0 && header.payload_bytes <= limits::kControlBodyBytes;
    case Opcode::kHostData:
      return header.body_bytes <= limits::kControlBodyBytes && header.payload_bytes <= limits::kInlineBytes;
    default: return false;
  }
}

}  // namespace

Status HostCalls::send_trace() {
  std::vector<std::byte> payload = recorder_.take();
  FrameHeader header{0, uint32_t(payload.size()), uint16_t(Opcode::kTrace), 0, 0};
  const iovec parts[] = {{&header, sizeof(header)}, {payload.data(), payload.size()}};
  std::lock_guard guard(send_mutex_);
  return side_.send(parts);
}

void HostCalls::side_loop() {
  FrameBuffer frames(kSideFrameBytes);
  for (;;) {
    auto received = side_.receive(frames.space());
    if (!received.ok()) return end_(received.status());
    if (*received == 0) return end_(Status(StatusCode::kUnavailable, "the client left"));
    frames.filled(*received);
    FrameBuffer::Frame frame;
    FrameBuffer::Next next;
    while ((next = frames.next(frame, well_formed)) == FrameBuffer::Next::kFrame) {
      const auto opcode = Opcode(frame.header.opcode);
      const Status status = opcode == Opcode::kHostChanges ? read_changes(frame.payload)
                            : opcode == Opcode::kHostData  ? read_data(frame.body, frame.payload)
                            : opcode == Opcode::kTrace     ? send_trace()
                                                           : read_done(frame.body);
      if (!status.ok()) return end_(status);
    }
    if (next == FrameBuffer::Next::kMalformed)
      return end_(Status(StatusCode::kInvalid, "the client sent a malformed frame on the side stream"));
  }
}

// --- Calls
// ---------------------------------------------------------------------------------------------------------------

CUresult handle_cuLaunchHostFunc(Call& call, CUstream hStream, CUhostFn, void*, uint64_t id) {
  HostCalls& host_calls = session_of(call).host_calls;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  call.driver.cuStreamIsCapturing(hStream, &status);
  const bool captured = status != CU_STREAM_CAPTURE_STATUS_NONE;
  if (captured) session_of(call).graphs.note_parts();
  void* argument = host_calls.argument(id, captured);
  const CUresult result = call.driver.cuLaunchHostFunc(hStream, HostCalls::run, argument);
  if (result != CUDA_SUCCESS) host_calls.forget(argument);
  return result;
}

CUresult handle_cuStreamAddCallback(Call& call, CUstream hStream, CUstreamCallback, void*, unsigned int flags,
                                    uint64_t id) {
  HostCalls& host_calls = session_of(call).host_calls;
  void* argument = host_calls.argument(id, false);
  const CUresult result = call.driver.cuStreamAddCallback(hStream, HostCalls::run_callback, argument, flags);
  if (result != CUDA_SUCCESS) host_calls.forget(argument);
  return result;
}

}  // namespace bf::server
