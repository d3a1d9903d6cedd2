#include "client/callbacks.h"

#include <cstring>
#include <mutex>
#include <vector>

#include "base/log.h"
#include "client/mirrors.h"
#include "client/trace.h"
#include "client/watch.h"
#include "proto/trace.h"
#include "proto/control.h"
#include "proto/frame.h"

namespace bf::client {

namespace {
thread_local bool t_inside = false;
}

bool Callbacks::inside() { return t_inside; }

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
  FrameHeader header{0, 0, uint16_t(kTraceOpcode), 0, 0};
  iovec part{&header, sizeof header};
  std::lock_guard guard(send_mutex_);
  return side.send({&part, 1});
}

Status Callbacks::run(transport::Stream& side, Landing& landing) {
  std::vector<std::byte> buffer(sizeof(FrameHeader) + limits::kControlBodyBytes);
  size_t used = 0;
  for (;;) {
    auto received = side.receive(std::span(buffer).subspan(used), std::chrono::microseconds(0));
    if (!received.ok()) return received.status();
    if (*received == 0) return Status(StatusCode::kUnavailable, "the server closed the side stream");
    used += *received;
    size_t at = 0;
    while (used - at >= sizeof(FrameHeader)) {
      FrameHeader header;
      std::memcpy(&header, buffer.data() + at, sizeof header);
      const bool trace = header.opcode == uint16_t(kTraceOpcode);
      if ((!trace && header.opcode != uint16_t(Opcode::kCallback)) || (trace ? header.body_bytes : header.payload_bytes) != 0 ||
          header.body_bytes > limits::kControlBodyBytes || header.payload_bytes > limits::kControlBodyBytes) {
        return Status(StatusCode::kInvalid, "the server sent a malformed frame on the side stream");
      }
      if (used - at < sizeof header + header.body_bytes + header.payload_bytes) break;
      if (trace) {
        if (!watched() || !Trace::instance().worker_answers({buffer.data() + at + sizeof header, header.payload_bytes}))
          return Status(StatusCode::kInvalid, "the server sent a trace that nobody asked for");
        at += sizeof header + header.payload_bytes;
        continue;
      }
      auto notice = control::decode_CallbackNotice({buffer.data() + at + sizeof header, header.body_bytes});
      if (!notice.ok()) return notice.status();
      at += sizeof header + header.body_bytes;

      Function function;
      {
        std::lock_guard guard(lock_);
        auto found = functions_.find(notice->id);
        if (found == functions_.end()) {
          return Status(StatusCode::kInvalid, "the server asks for a host function that does not exist");
        }
        function = found->second;
      }
      if (!landing.wait(notice->watermark, notice->data_frames)) return Status(StatusCode::kUnavailable, "the link was lost");
      t_inside = true;
      if (function.stream_callback) {
        function.stream_callback(function.stream, CUresult(notice->status), function.user);
      } else {
        function.function(function.user);
      }
      t_inside = false;
      if (!function.repeats) remove(notice->id);
      std::lock_guard sending(send_mutex_);
      if (Mirrors::instance().live()) BF_RETURN_IF_ERROR(Mirrors::instance().publish(side));

      control::CallbackNotice done;
      done.id = notice->id;
      std::string body = control::encode_CallbackNotice(done);
      FrameHeader answer{uint32_t(body.size()), 0, uint16_t(Opcode::kCallbackDone), 0, 0};
      iovec parts[] = {{&answer, sizeof answer}, {body.data(), body.size()}};
      BF_RETURN_IF_ERROR(side.send(parts));
    }
    std::memmove(buffer.data(), buffer.data() + at, used - at);
    used -= at;
  }
}

}  // namespace bf::client
