#include "server/worker/session.h"

#include <pthread.h>

#include <cstring>
#include <thread>

#include "base/log.h"
#include "proto/api/wire.h"

namespace bf::server {
namespace {

constexpr auto kReportEvery = std::chrono::seconds(1);

bool is_sticky(CUresult result) {
  switch (result) {
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case CUDA_ERROR_CONTAINED: return true;
    default: return false;
  }
}

// What device code printed becomes visible to the driver's process at these calls, and what it wrote to host memory.
bool synchronises(uint16_t opcode) {
  switch (opcode) {
    case opcode::cuCtxSynchronize:
    case opcode::cuStreamSynchronize:
    case opcode::cuStreamQuery:
    case opcode::cuEventSynchronize:
    case opcode::cuEventQuery:
    case opcode::cuEventElapsedTime_v2:
    case opcode::cuMemcpyHtoD_v2:
    case opcode::cuMemcpyDtoH_v2:
    case opcode::cuMemcpy3D_v2:
    case opcode::cuCtxDestroy_v2:
    case opcode::cuDevicePrimaryCtxRelease_v2:
    case opcode::cuDevicePrimaryCtxReset_v2:
    case opcode::cuModuleUnload:
    case opcode::cuLibraryUnload: return true;
    default: return false;
  }
}

// May the client conclude from this answer that copies are done? Of calls that seldom come while some are under way it always may.
bool tells_of_copies(uint16_t opcode, CUresult result) {
  return result != CUDA_ERROR_NOT_READY && opcode != opcode::cuMemAlloc_v2 && opcode != opcode::cuMemGetInfo_v2;
}

// Calls that change no memory that the client has a copy of, or only as it knows.
bool changes_nothing(uint16_t opcode) {
  switch (opcode) {
    case opcode::cuCtxSynchronize:
    case opcode::cuStreamSynchronize:
    case opcode::cuStreamQuery:
    case opcode::cuEventSynchronize:
    case opcode::cuEventQuery:
    case opcode::cuEventElapsedTime_v2:
    case opcode::bfMirrorMap:
    case opcode::bfMirrorUnmap:
    case opcode::bfMirrorWrite: return true;
    default: return false;
  }
}

uint64_t unix_ms() {
  return uint64_t(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

std::vector<Charges::Device> charge_devices(const SessionConfig& config) {
  std::vector<Charges::Device> devices;
  for (size_t i = 0; i < config.devices.size(); ++i) devices.push_back({config.devices[i].partition, config.devices[i].context_bytes});
  return devices;
}

// The server's memory goes to sessions as its GPUs' memory does.
uint64_t mirror_limit(const SessionConfig& config) {
  uint64_t bytes = 0;
  for (const auto& device : config.devices) bytes += device.limit_bytes;
  return bytes;
}

}  // namespace

// A lane's call: the tables are the session's.
class Session::LaneCall final : public Call {
 public:
  LaneCall(Session& session, uint32_t id) : Call(&session, session.driver) { lane = id; }
  bool resolve(HandleKind kind, uint64_t value, uint64_t& real) override {
    return session->handles.resolve(kind, value, real);
  }
  bool register_new(HandleKind kind, uint64_t value, uint64_t real) override {
    return session->handles.insert(kind, value, real);
  }
  void erase(HandleKind kind, uint64_t value) override { session->handles.erase(kind, value); }
  void drop_transfer(uint64_t transfer) override { session->inbox.discard(transfer); }
  uint64_t work_before = 0;  // of the mirrors, when the call was entered
  const Turn* turn = nullptr;  // while it runs
  uint64_t value_of(HandleKind kind, uint64_t real) override { return session->handles.value_of(kind, real); }
};

std::span<const std::byte> keep(Call& call, std::string_view bytes) {
  if (bytes.empty()) return {};
  void* copy = call.arena.alloc(bytes.size());
  if (!copy) return {};
  std::memcpy(copy, bytes.data(), bytes.size());
  return {static_cast<std::byte*>(copy), bytes.size()};
}

Session::Session(transport::Link& link, Prepared& prepared, const SessionConfig& config, Ledger& ledger)
    : link(link),
      driver(prepared.driver),
      prepared(prepared),
      config(config),
      inbox(link.bulk(), prepared.fences, recorder, config.spin_us, [this](const Status& why) { end(why); }),
      outbox(link, prepared.staging, prepared.fences, [this](const Status& why) { end(why); }),
      copies(driver, prepared.fences, prepared.staging, inbox, outbox, link.bulk().ring()),
      charges(ledger, config.ledger_slot, charge_devices(config)),
      mirrors(driver, outbox, charges, mirror_limit(config)),
      contexts(*this),
      pools(*this),
      images(config.images, config.image_salt),
      functions(*this),
      graph_staging(driver),
      host_calls(link.side(), outbox, mirrors, graph_staging, recorder, [this](Status why) { end(std::move(why)); }),
      graphs(*this),
      lanes_(new std::unique_ptr<LaneCall>[limits::kLanes]) {}

Session::~Session() = default;

void Session::end(Status why) noexcept {
  {
    std::lock_guard guard(end_mutex_);
    if (ended_.load(std::memory_order_relaxed)) return;
    why_ = why;
    ended_.store(true, std::memory_order_release);
  }
  {
    std::lock_guard guard(report_mutex_);  // the last report is behind one that is just being made
    report_now(why.message(), !client_left(why));
  }
  if (config.ended) config.ended(why);
  link.shut();
  inbox.stop();
  copies.stop();
  host_calls.stop();
  mirrors.stop();
  if (reader_) reader_->stop();
  if (order_) order_->stop();
}

void Session::violation(const Call& call, const char* what) {
  const Dispatch* entry = lookup(call.opcode);
  end(Status(StatusCode::kInvalid,
             fmt::format("the client broke the protocol: {} in {}", what, entry ? entry->name : "an unknown call")));
}

void Session::no_thread(uint32_t lane) {
  end(Status(StatusCode::kExhausted, fmt::format("no thread for lane {}: the system has none left", lane)));
}

void Session::note_result(CUresult result) {
  if (is_sticky(result)) copies.abandon();
}

bool Session::holds_up(const Call& call, CUstream stream) {
  const Frame* next = static_cast<const LaneCall&>(call).turn->next();
  if (!next) return false;
  if (next->header.opcode == opcode::cuCtxSynchronize) return next->header.lane != call.lane;  // another thread's context may be another
  if (next->header.opcode != opcode::cuStreamSynchronize) return true;
  wire::Reader body(next->body());
  uint64_t value = body.next() == wire::tag(1, wire::kFixed64) ? body.fixed64() : 0;
  if (value > uint64_t(CU_STREAM_PER_THREAD) && !handles.resolve(HandleKind::kStream, value, value)) return true;
  return CUstream(value) != stream;
}

Session::LaneCall& Session::lane_call(uint32_t lane) {
  if (!lanes_[lane]) {
    pthread_setname_np(pthread_self(), fmt::format("bf-lane-{}", lane).c_str());
    lanes_[lane] = std::make_unique<LaneCall>(*this, lane);
  }
  return *lanes_[lane];
}

void Session::run(const Frame& frame, Turn& turn) {
  LaneCall& call = lane_call(frame.header.lane);
  call.arena.reset();
  call.opcode = frame.header.opcode;
  call.flags = frame.header.flags;
  call.body = frame.body();
  call.payload = frame.payload();
  call.result = CUDA_SUCCESS;
  call.outs = call.reply_payload = {};
  call.violation = nullptr;
  call.turn = &turn;
  const Dispatch* entry = lookup(frame.header.opcode);
  if (!entry) return violation(call, "unknown opcode");
  if (entry->post != ((call.flags & kPost) != 0))
    return violation(call, "a post that should be a call, or the reverse");
  outstanding_.fetch_add(1, std::memory_order_relaxed);
  calls_.fetch_add(1, std::memory_order_seq_cst);
  if (report_sleeps_.load(std::memory_order_seq_cst)) wake_reporter();
  if (mirrors.live()) {
    if (!changes_nothing(call.opcode)) mirrors.note_work();
    call.work_before = mirrors.work();
  }
  if (!entry->post) turn.pass();
  {
    Recorder::Span running(recorder, call.lane, call.opcode);
    if (entry->run(call) != Outcome::kDone) return violation(call, call.violation ? call.violation : "malformed");
  }
  finish(*entry, call);
}

void Session::finish(const Dispatch& entry, LaneCall& call) {
  outstanding_.fetch_sub(1, std::memory_order_relaxed);
  if (call.result != CUDA_SUCCESS) {
    BF_DEBUG("{} on lane {}: error {}", entry.name, call.lane, int(call.result));
    note_result(call.result);
  }
  if (!entry.post) {
    if (synchronises(call.opcode)) {
      if (config.prints) send_prints();
      pools.synchronised();
      // A call gave its work some time between its entry and now.
      if (mirrors.live() && !changes_nothing(call.opcode)) mirrors.note_work();
      if (mirrors.live() && call.result == CUDA_SUCCESS)
        mirrors.collect(call.opcode == opcode::cuCtxSynchronize && contexts.only_one() ? call.work_before : 0);
    }
    return outbox.reply(call.opcode, call.lane, uint32_t(call.result), call.outs, call.reply_payload, tells_of_copies(call.opcode, call.result));
  }
  if (call.result == CUDA_SUCCESS) return;
  // A broken context fails every post; the client needs to hear that once.
  if (last_async_error_.exchange(call.result, std::memory_order_relaxed) == call.result && is_sticky(call.result))
    return;
  control::AsyncErrorNotice notice;
  notice.result = uint32_t(call.result);
  notice.opcode = call.opcode;
  notice.lane = call.lane;
  outbox.notice(Opcode::kAsyncError, control::encode_AsyncErrorNotice(notice));
}

void Session::send_prints() {
  std::lock_guard guard(prints_mutex_);
  config.prints->collect([this](int fd, std::span<const std::byte> bytes) {
    control::PrintNotice notice;
    notice.fd = uint32_t(fd);
    outbox.notice(Opcode::kPrint, control::encode_PrintNotice(notice), bytes);
  });
}

void Session::report_now(const std::string& reason, bool lost) {
  if (!config.report) return;
  control::WorkerReport report;
  report.calls = calls_.load(std::memory_order_relaxed);
  report.bytes_in = (reader_ ? reader_->bytes() : 0) + inbox.bytes_received();
  report.bytes_out = outbox.bytes_sent();
  report.last_call_unix_ms = unix_ms();
  report.outstanding = outstanding_.load(std::memory_order_relaxed);
  report.reason = reason;
  report.lost = lost;
  config.report(report);
}

// bfserver takes leases back that make no calls, so it must hear of those that do, and of a call that takes long; a
// thread of its own, because nothing else wakes up while such a call runs. It sleeps while there is none.
void Session::report_loop() {
  uint64_t calls = 0;
  bool outstanding = false;
  std::unique_lock lock(report_mutex_);
  while (!ended()) {
    report_wake_.wait_for(lock, kReportEvery, [this] { return ended(); });
    const uint64_t now = calls_.load(std::memory_order_relaxed);
    const bool waiting = outstanding_.load(std::memory_order_relaxed) > 0;
    const bool news = now != calls || waiting || outstanding;
    if (!ended() && news) report_now({}, false);
    calls = now;
    outstanding = waiting;
    if (news) continue;
    report_sleeps_.store(true, std::memory_order_seq_cst);
    report_wake_.wait(lock, [&] { return ended() || calls_.load(std::memory_order_seq_cst) != calls; });
  }
}

void Session::wake_reporter() noexcept {
  std::lock_guard guard(report_mutex_);
  report_sleeps_.store(false, std::memory_order_relaxed);
  report_wake_.notify_all();
}

void Session::idle(const std::function<bool()>& waits, transport::LookOut time) { reader_->look(waits, time); }

Status Session::serve() {
  order_.emplace(*this, config.spin_us);
  reader_.emplace(link.calls(), pool_, *order_, config.spin_us, [this](const Status& why) { end(why); });
  link.bulk().start(inbox);
  copies.start();
  host_calls.start();
  std::thread reporter([this] { report_loop(); });
  reader_->run();
  {
    std::lock_guard guard(report_mutex_);
    report_wake_.notify_all();
  }
  reporter.join();
  order_->join();
  copies.join();
  host_calls.join();
  mirrors.join();
  link.bulk().stop();
  std::lock_guard guard(end_mutex_);
  return why_;
}

Status serve_session(transport::Link& link, Prepared& prepared, const SessionConfig& config) {
  if (prepared.primary.size() < config.devices.size())
    return Status(StatusCode::kInvalid, "the driver shows fewer devices than the session has");
  std::vector<uint64_t> limits;
  for (const auto& device : config.devices) limits.push_back(device.limit_bytes);
  std::optional<Ledger> own;
  if (!config.ledger) {
    auto made = Ledger::create(limits);
    if (!made.ok()) return made.status();
    own.emplace(std::move(*made));
  }
  if (config.devices.size() == 1) {
    prepared.driver.cuCtxSetCurrent(prepared.primary[0]);
    prepared.staging.open(link.bulk());
    prepared.driver.cuCtxSetCurrent(nullptr);
  }
  Session session(link, prepared, config, own ? *own : *config.ledger);
  return session.serve();
}

Status serve_session(transport::Link& link, const DriverApi& driver, const SessionConfig& config) {
  Prepared prepared(driver);
  CUresult result = prepared.start();
  if (result == CUDA_SUCCESS) result = prepared.warm();
  if (result != CUDA_SUCCESS)
    return Status(StatusCode::kUnavailable, fmt::format("the driver refuses with error {}", int(result)));
  return serve_session(link, prepared, config);
}

}  // namespace bf::server
