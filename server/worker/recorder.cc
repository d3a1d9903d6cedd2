#include "server/worker/recorder.h"

#include <time.h>

#include <algorithm>
#include <cstring>

namespace bf::server {
namespace {

thread_local TraceRecord t_running;  // the call that this thread runs

uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

}  // namespace

Recorder::Span::Span(Recorder& recorder, uint32_t lane, uint16_t opcode) : recorder_(recorder), on_(recorder.on()) {
  if (!on_) [[likely]] return;
  t_running = record_ = {now_ns(), 0, lane, opcode, TraceRecord::kRun};
}

Recorder::Span::Span(Recorder& recorder) : recorder_(recorder), on_(recorder.on()) {
  if (!on_) [[likely]] return;
  record_ = {now_ns(), 0, t_running.lane, t_running.opcode, TraceRecord::kBytes};
}

void Recorder::Span::end() {
  record_.end_ns = now_ns();
  std::lock_guard guard(recorder_.mutex_);
  if (recorder_.records_.size() < kMost) {
    recorder_.records_.push_back(record_);
  } else {
    ++recorder_.dropped_;
  }
}

std::vector<std::byte> Recorder::take() {
  on_.store(true, std::memory_order_relaxed);
  std::lock_guard guard(mutex_);
  const size_t count = std::min(records_.size(), kTraceRecords);
  std::vector<std::byte> payload(sizeof(TraceHead) + count * sizeof(TraceRecord));
  for (size_t i = 0; i < count; ++i, records_.pop_front())
    std::memcpy(payload.data() + sizeof(TraceHead) + i * sizeof(TraceRecord), &records_.front(), sizeof(TraceRecord));
  const TraceHead head{now_ns(), dropped_};
  std::memcpy(payload.data(), &head, sizeof(head));
  return payload;
}

}  // namespace bf::server
