#include "client/trace.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/log.h"
#include "client/watch.h"
#include "proto/trace.h"

namespace bf::client {

namespace {

constexpr long kPauseNs = 100'000'000;  // what is lost at most when the process is killed
constexpr uint32_t kEndWanted = 1, kAllThere = 2;
constexpr int kWorkerProcess = 1'000'000'000;  // a process number of the trace that no client has

int thread_id() {
  static thread_local const int id = int(syscall(SYS_gettid));
  return id;
}

std::string process_line(int process, const std::string& name) {
  return fmt::format("{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":{},\"tid\":0,\"args\":{{\"name\":\"{}\"}}}},\n", process, name);
}

// Program names may hold anything.
std::string plain(const char* text) {
  std::string out;
  for (; *text; ++text) out += *text < ' ' || *text == '"' || *text == '\\' ? '?' : *text;
  return out;
}

void put_line(std::string& out, const char* name, const char* kind, int process, int64_t thread, int64_t begin_ns,
              int64_t end_ns, const std::string& arguments = {}) {
  fmt::format_to(std::back_inserter(out),
                 "{{\"name\":\"{}\",\"cat\":\"{}\",\"ph\":\"X\",\"pid\":{},\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f},\"args\":{{{}}}}},\n", name,
                 kind, process, thread, double(begin_ns) / 1e3, double(end_ns - begin_ns) / 1e3, arguments);
}

}  // namespace

Trace& Trace::instance() {
  static Trace* const made = new Trace;  // the program may call CUDA until its very end
  return *made;
}

bool Trace::open(const char* path) {
  file_ = Fd(::open(path, O_WRONLY | O_APPEND | O_CLOEXEC));
  process_ = getpid();
  return bool(file_);
}

void Trace::add(const TraceCall& call) {
  const int thread = thread_id();
  std::lock_guard guard(mutex_);
  events_.push_back({call, thread});
}

bool Trace::ask(Callbacks& callbacks, transport::Stream& side) {
  {
    std::lock_guard guard(mutex_);
    if (asked_ns_ != 0) return true;
    asked_ns_ = monotonic_ns();
    more_ = false;
  }
  return callbacks.ask_for_trace(side).ok();
}

void Trace::run(Callbacks& callbacks, transport::Stream& side) {
  {
    std::lock_guard guard(mutex_);
    worker_ = process_line(process_, plain(program_invocation_short_name)) +
              process_line(kWorkerProcess + process_, fmt::format("worker of {}", process_));
  }
  bool last_asked = false, linked = true;
  while (stage_.load(std::memory_order_acquire) != kAllThere) {
    const uint32_t seen = word_.load(std::memory_order_acquire);
    const bool end = stage_.load(std::memory_order_acquire) == kEndWanted;
    bool answered, more;
    {
      std::lock_guard guard(mutex_);
      answered = asked_ns_ == 0;
      more = more_;
    }
    if (end && (!linked || (last_asked && answered && !more))) {
      stage_.store(kAllThere, std::memory_order_release);
      futex_wake(stage_, 1);
      return;
    }
    if (linked && answered) {
      last_asked = end;
      linked = ask(callbacks, side);
      if (!linked) continue;
    }
    write_out();
    const timespec pause{0, kPauseNs};
    futex_wait(word_, seen, &pause);
  }
}

void Trace::wait_for_worker(int timeout_ms) {
  const uint64_t end_ns = monotonic_ns() + uint64_t(timeout_ms) * 1'000'000;
  while (recording_.load(std::memory_order_acquire) == 0 && monotonic_ns() < end_ns) {
    const timespec pause{0, 10'000'000};
    futex_wait(recording_, 0, &pause);
  }
}

bool Trace::worker_answers(std::span<const std::byte> payload) {
  TraceHead head;
  if (payload.size() < sizeof head || (payload.size() - sizeof head) % sizeof(TraceRecord) != 0) return false;
  std::memcpy(&head, payload.data(), sizeof head);
  const uint64_t now_ns = monotonic_ns();
  {
    std::lock_guard guard(mutex_);
    if (asked_ns_ == 0) return false;
    if (const uint64_t took_ns = now_ns - asked_ns_; took_ns < quickest_ns_) {
      quickest_ns_ = took_ns;
      offset_ns_ = int64_t(head.now_ns - (asked_ns_ + took_ns / 2));
    }
    asked_ns_ = 0;
    dropped_ = head.dropped;
    if (payload.size() > sizeof head) worst_ns_ = std::max(worst_ns_, quickest_ns_);
    size_t records = 0;
    for (auto at = payload.subspan(sizeof head); !at.empty(); at = at.subspan(sizeof(TraceRecord)), ++records) {
      TraceRecord record;
      std::memcpy(&record, at.data(), sizeof record);
      const char* name = call_name(record.opcode);
      const bool run = record.kind == TraceRecord::kRun;
      put_line(worker_, !run ? "wait for the client's bytes" : name ? name : "?", run ? "worker" : "wait", kWorkerProcess + process_,
               record.lane, int64_t(record.begin_ns) - offset_ns_, int64_t(record.end_ns) - offset_ns_);
    }
    more_ = records == kTraceRecords;
    if (recording_.exchange(1, std::memory_order_release) == 0) futex_wake(recording_, INT_MAX);
    if (!more_ && stage_.load(std::memory_order_relaxed) == 0) return true;
  }
  word_.fetch_add(1, std::memory_order_release);
  futex_wake(word_, 1);
  return true;
}

void Trace::write_out() {
  std::vector<Event> events;
  std::string lines;
  {
    std::lock_guard guard(mutex_);
    events.swap(events_);
    lines.swap(worker_);
  }
  for (const auto& [call, thread] : events) {
    if (call.posts + call.round_trips == 0) {
      put_line(lines, call.name, "wait", process_, thread, int64_t(call.begin_ns), int64_t(call.end_ns));
      continue;
    }
    put_line(lines, call.name, call.round_trips ? "round trip" : "post", process_, thread, int64_t(call.begin_ns), int64_t(call.end_ns),
             fmt::format("\"posts\":{},\"round_trips\":{},\"wait_us\":{:.3f},\"bytes_up\":{},\"bytes_down\":{}", call.posts,
                         call.round_trips, double(call.wait_ns) / 1e3, call.bytes_up, call.bytes_down));
  }
  // Appended in one piece, as other processes write to the file, too.
  if (!lines.empty() && ::write(file_.get(), lines.data(), lines.size()) != ssize_t(lines.size()))
    BF_WARN("the trace lacks {} bytes: {}", lines.size(), strerror(errno));
}

void Trace::finish(int timeout_ms) {
  stage_.store(kEndWanted, std::memory_order_release);
  word_.fetch_add(1, std::memory_order_release);
  futex_wake(word_, 1);
  const uint64_t end_ns = monotonic_ns() + uint64_t(timeout_ms) * 1'000'000;
  while (stage_.load(std::memory_order_acquire) != kAllThere && monotonic_ns() < end_ns) {
    const timespec pause{0, 10'000'000};
    futex_wait(stage_, kEndWanted, &pause);
  }
  stage_.store(kAllThere, std::memory_order_release);
  {
    std::lock_guard guard(mutex_);
    worker_ += fmt::format("{{\"name\":\"bf_session\",\"ph\":\"M\",\"pid\":{},\"tid\":0,\"args\":{{\"clock_error_us\":{:.1f},\"lost\":{}}}}},\n",
                           process_, double(worst_ns_) / 2e3, dropped_);
  }
  write_out();
}

}  // namespace bf::client
