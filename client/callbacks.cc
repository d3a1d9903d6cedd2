#include "client/callbacks.h"

#include <cstring>
#include <mutex>
#include <vector>

#include "base/log.h"
#include "client/mirrors.h"
#include "client/state.h"
#include "client/trace.h"
#include "client/watch.h"
#include "proto/control.h"
#include "proto/frame_buffer.h"
#include "proto/trace.h"

namespace bf::client {

namespace {
thread_local bool t_inside = false;
}

bool Callbacks::inside() { return t_inside; }
Callbacks::Inside::Inside() : before_(std::exchange(t_inside, true)) {}
Callbacks::Inside::~Inside() { t_inside = before_; }

std::optional<Callbacks::Function> Callbacks::find(uint64_t id) const {
  std::lock_guard guard(lock_);
  auto found = functions_.find(id);
  if (found == functions_.end()) return std::nullopt;
  return found->second;
}

uint64_t Callbacks::add(const Function& function) {
  std::lock_guard guard(lock_);
  uint64_t id = next_++;
  functions_.emplace(id, function);
  if (!function.repeats) outstanding_.fetch_add(1, std::memory_order_release);
  return id;
}

void Callbacks::remove(uint64_t id) {
  std::lock_guard guard(lock_);
  auto found = functions_.find(id);
  if (found == functions_.end()) return;
  if (!found->second.repeats) outstanding_.fetch_sub(1, std::memory_order_release);
  functions_.erase(found);
}

void Callbacks::graphs_completed(uint64_t launches) {
  uint64_t known = graphs_completed_.load();
  while (known < launches && !graphs_completed_.compare_exchange_weak(known, launches)) {
  }
}

Status Callbacks::ask_for_trace(transport::Stream& side) {
  FrameHeader header{0, 0, uint16_t(Opcode::kTrace), 0, 0};
  iovec part{&header, sizeof header};
  std::lock_guard guard(send_mutex_);
  return side.send({&part, 1});
}

static Status take_trace(std::span<const std::byte> events) {
  if (watched() && Trace::instance().worker_answers(events)) return {};
  return Status(StatusCode::kInvalid, "the server sent a trace that nobody asked for");
}

Status Callbacks::send_staging(transport::Stream& side, uint64_t address) {
  auto staging = state().staging.find(address);
  if (!staging) return Status(StatusCode::kInvalid, "the server asks for staging that does not exist");
  std::vector<std::byte> bytes(limits::kInlineBytes);
  const size_t total = staging->host.bytes();
  for (size_t at = 0; at < total; at += bytes.size()) {
    const size_t count = std::min(bytes.size(), total - at);
    staging->host.gather(at, bytes.data(), count);
    std::string body = control::encode_HostData({address, at});
    FrameHeader header{uint32_t(body.size()), uint32_t(count), uint16_t(Opcode::kHostData), 0, 0};
    iovec parts[] = {{&header, sizeof header}, {body.data(), body.size()}, {bytes.data(), count}};
    BF_RETURN_IF_ERROR(side.send(parts));
  }
  return {};
}

// Bytes of a copy that a graph did before the host function that comes next.
static Status take_staging(std::span<const std::byte> body, std::span<const std::byte> bytes) {
  auto notice = control::decode_HostData(body);
  if (!notice.ok()) return notice.status();
  auto staging = state().staging.find(notice->staging);
  const size_t total = staging ? staging->host.bytes() : 0;
  if (notice->offset > total || bytes.size() > total - notice->offset) {
    return Status(StatusCode::kInvalid, "the server sent data for staging that does not exist");
  }
  staging->host.scatter(notice->offset, bytes.data(), bytes.size());
  return {};
}

Status Callbacks::run_one(transport::Stream& side, Landing& landing, std::span<const std::byte> body) {
  auto notice = control::decode_CallbackNotice(body);
  if (!notice.ok()) return notice.status();
  const auto function = find(notice->id);
  if (!function) return Status(StatusCode::kInvalid, "the server asks for a host function that does not exist");
  if (!landing.wait(notice->watermark, notice->data_frames)) return Status(StatusCode::kUnavailable, "the link was lost");
  {
    Inside inside;
    if (function->stream_callback) {
      function->stream_callback(function->stream, CUresult(notice->status), function->user);
    } else {
      function->function(function->user);
    }
  }
  if (!function->repeats) remove(notice->id);
  std::lock_guard sending(send_mutex_);
  if (Mirrors::instance().live()) BF_RETURN_IF_ERROR(Mirrors::instance().publish(side));
  for (size_t at = 0; at + sizeof(uint64_t) <= notice->wanted.size(); at += sizeof(uint64_t)) {
    uint64_t staging;
    std::memcpy(&staging, notice->wanted.data() + at, sizeof staging);
    BF_RETURN_IF_ERROR(send_staging(side, staging));
  }
  control::CallbackNotice done;
  done.id = notice->id;
  std::string answer_body = control::encode_CallbackNotice(done);
  FrameHeader answer{uint32_t(answer_body.size()), 0, uint16_t(Opcode::kCallbackDone), 0, 0};
  iovec parts[] = {{&answer, sizeof answer}, {answer_body.data(), answer_body.size()}};
  return side.send(parts);
}

// Data of staging has body and payload; what is traced is payload alone, calls of functions are body alone.
static bool well_formed(const FrameHeader& header) {
  switch (Opcode(header.opcode)) {
    case Opcode::kCallback: return header.body_bytes <= limits::kControlBodyBytes && header.payload_bytes == 0;
    case Opcode::kTrace: return header.body_bytes == 0 && header.payload_bytes <= limits::kControlBodyBytes;
    case Opcode::kHostData: return header.body_bytes <= limits::kControlBodyBytes && header.payload_bytes <= limits::kInlineBytes;
    default: return false;
  }
}

Status Callbacks::run(transport::Stream& side, Landing& landing) {
  FrameBuffer frames(kSideFrameBytes);
  for (;;) {
    auto received = side.receive(frames.space());
    if (!received.ok()) return received.status();
    if (*received == 0) return Status(StatusCode::kUnavailable, "the server closed the side stream");
    frames.filled(*received);
    FrameBuffer::Frame frame;
    FrameBuffer::Next next;
    while ((next = frames.next(frame, well_formed)) == FrameBuffer::Next::kFrame) {
      const auto opcode = Opcode(frame.header.opcode);
      BF_RETURN_IF_ERROR(opcode == Opcode::kHostData ? take_staging(frame.body, frame.payload)
                         : opcode == Opcode::kTrace  ? take_trace(frame.payload)
                                                     : run_one(side, landing, frame.body));
    }
    if (next == FrameBuffer::Next::kMalformed)
      return Status(StatusCode::kInvalid, "the server sent a malformed frame on the side stream");
  }
}

}  // namespace bf::client
