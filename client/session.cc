#include "client/session.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>

#include "base/log.h"
#include "client/contexts.h"
#include "client/mirrors.h"
#include "client/shared_memory.h"
#include "client/trace.h"
#include "client/watch.h"
#include "api/remote.h"
#include "proto/control.h"

namespace bf::client {

constinit std::atomic<uint32_t> g_gate{CUDA_ERROR_NOT_INITIALIZED};
std::atomic<Session*> Session::instance_{nullptr};

namespace {

constexpr size_t kKeepBytes = 1 << 20;        // a lane's larger answers are given back after the call
constexpr size_t kPrintBytes = 4 << 20;       // text nobody has asked for yet; beyond, the receiver writes it out itself
constexpr const char* kVersion = "0.1.0";
constexpr int kGoodbyeMs = 1000;
constexpr int kTraceMs = 1000;  // for the worker to begin to record
// Who waits for a reply keeps its processor for so long: as the driver does for a whole synchronise, and because waking
// a processor of a virtual machine costs 100-400 us. With processors to spare that goes for a step of inference, too.
const auto kSpin = std::chrono::milliseconds(!transport::processors_to_spare() ? 0 : std::thread::hardware_concurrency() > 8 ? 20 : 2);
constexpr auto kWorks = std::chrono::milliseconds(20);  // a program that has sent something so lately is likely to ask soon

std::mutex g_start;                    // one attach at a time
std::atomic<bool> g_used{false};       // this process has a session, or is making one
std::atomic<bool> g_forked{false};     // a child of a process that used CUDA

// The shim prints nothing of its own accord. `bfrun -v` asks for the transport; and a program that was to run over RDMA
// alone ends with an error of CUDA that nobody could explain - unless it is what its CUDA_VISIBLE_DEVICES says (`own_fault`).
void say_choice(const Result<Attached>& attached, bool own_fault) {
  const char* verbose = getenv("BF_VERBOSE");
  const char* transport = getenv("BF_TRANSPORT");
  if (attached.ok()) {
    if (verbose && !attached.value().choice.empty()) fprintf(stderr, "backfield: transport %s\n", attached.value().choice.c_str());
  } else if (verbose || (!own_fault && transport && strcmp(transport, "rdma") == 0)) {
    fprintf(stderr, "backfield: no session: %s\n", attached.status().message().c_str());
  }
}

// Of the calling thread: it may hold the stream, which nobody else could use any more.
class Uncancelled {
 public:
  Uncancelled() { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~Uncancelled() { pthread_setcancelstate(before_, nullptr); }
  Uncancelled(const Uncancelled&) = delete;

 private:
  int before_ = PTHREAD_CANCEL_ENABLE;
};

}  // namespace

bool is_sticky(CUresult result) {
  switch (int(result)) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
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
    case CUDA_ERROR_EXTERNAL_DEVICE:
      return true;
    default:
      return false;
  }
}

static bool is_capture_error(CUresult result) {
  return result >= CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED && result <= CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
}

// --- Beginning and end ---------------------------------------------------------------------------------------------------

Session::Session(Attached attached)
    : link_(std::move(attached.link)),
      sockets_(std::move(attached.sockets)),
      landing_([this](const Status& why) { lose(why); }),
      stream_(link_->calls(), [this](const Status& why) { lose(why); }),
      receiver_(link_->calls(), [this](const FrameHeader& header, Bytes body, Bytes payload) { return dispatch(header, body, payload); },
                [this](const Status& why) { lose(why); }) {}

CUresult Session::start() {
  if (gate() != CUDA_ERROR_NOT_INITIALIZED) return gate();
  if (g_forked.load(std::memory_order_acquire)) return CUDA_ERROR_NOT_INITIALIZED;
  std::lock_guard guard(g_start);
  if (gate() != CUDA_ERROR_NOT_INITIALIZED) return gate();
  static bool registered = false;
  if (!registered) {
    pthread_atfork([] { SharedMemory::instance().before_fork(); }, [] { SharedMemory::instance().after_fork(); }, at_fork_child);
    set_log_level(parse_log_level(getenv("BF_LOG") ? getenv("BF_LOG") : "", LogLevel::kOff));
    registered = true;
  }
  g_used.store(true, std::memory_order_release);
  auto fail = [](const Status& why, CUresult result) {
    BF_ERROR("cannot start a session: {}", why.message());
    g_used.store(false, std::memory_order_release);
    return result;
  };

  const CudaEnvironment cuda = CudaEnvironment::read();
  bool device_twice = false;
  auto attached = [&]() -> Result<Attached> {
    if (link_factory()) return link_factory()(&device_twice);
    auto settings = AttachSettings::from_environment();
    if (!settings.ok()) return settings.status();
    if (settings->server.empty()) return Status(StatusCode::kImpossible, "no server is named; start the program with bfrun");
    settings->cuda = cuda;
    return attach(*settings, &device_twice);
  }();
  const bool none = attached.status().code() == StatusCode::kImpossible;
  say_choice(attached, device_twice || none);
  if (!attached.ok()) {
    return fail(attached.status(), device_twice ? CUDA_ERROR_INVALID_DEVICE
                                   : none       ? CUDA_ERROR_NO_DEVICE
                                                : CUDA_ERROR_DEVICE_UNAVAILABLE);
  }
  auto* session = new Session(std::move(*attached));
  session->launch_blocking_ = cuda.launch_blocking;
  if (Status status = session->run(); !status.ok()) return fail(status, CUDA_ERROR_OPERATING_SYSTEM);
  instance_.store(session, std::memory_order_release);
  std::span<const std::byte> snapshot;
  CUresult started = remote_bfSessionStart(kVersion, snapshot);
  auto decoded = decode_session_snapshot({reinterpret_cast<const char*>(snapshot.data()), snapshot.size()});
  if (started != CUDA_SUCCESS || !decoded.ok() || decoded->devices.size() > limits::kDevices) {
    session->lose(decoded.ok() ? Status(StatusCode::kUnavailable, "the worker did not start the session") : decoded.status());
    return CUDA_ERROR_DEVICE_UNAVAILABLE;
  }
  session->snapshot_ = std::move(*decoded);
  make_attribute_tables(session->snapshot_);
  make_primary_contexts(session->snapshot_);
  if (g_watched.load() & kWatchTrace) {
    auto trace = transport::Thread::start("bf-trace", [session] { Trace::instance().run(session->callbacks_, session->link_->side()); });
    if (trace.ok()) {
      session->threads_.push_back(std::move(*trace));
      Trace::instance().wait_for_worker(kTraceMs);
    }
  }
  atexit(at_exit);
  uint32_t expected = CUDA_ERROR_NOT_INITIALIZED;
  g_gate.compare_exchange_strong(expected, CUDA_SUCCESS);
  return gate();
}

CUresult Session::questions_gate() {
  CUresult why = gate();
  if (why != CUDA_ERROR_DEVICE_UNAVAILABLE) return why;
  Session* session = get();
  return session && !session->snapshot_.devices.empty() ? CUDA_SUCCESS : why;
}

Status Session::run() {
  link_->bulk().start(landing_);
  landing_.attach(link_->bulk());
  struct {
    const char* name;
    std::function<void()> body;
  } loops[] = {
      {"bf-receive", [this] { receiver_.run([this] { return program_works(); }); }},
      {"bf-flush", [this] { stream_.run_flusher(); }},
      {"bf-callback", [this] { lose(callbacks_.run(link_->side(), landing_)); }},
  };
  for (auto& loop : loops) {
    auto thread = transport::Thread::start(loop.name, std::move(loop.body));
    if (!thread.ok()) {
      lose(thread.status());
      return thread.status();
    }
    threads_.push_back(std::move(*thread));
  }
  return ok_status();
}

void Session::lose(const Status& why, CUresult code) {
  uint32_t gate = g_gate.load();
  while (gate != CUDA_ERROR_DEINITIALIZED && gate != CUDA_ERROR_DEVICE_UNAVAILABLE) {
    if (g_gate.compare_exchange_weak(gate, code)) {
      if (code == CUDA_ERROR_DEVICE_UNAVAILABLE) BF_ERROR("the session is lost: {}", why.message());
      break;
    }
  }
  stream_.close();
  link_->shut();
  landing_.stop();
  for (auto& slot : lanes_) {
    Lane* lane = slot.load(std::memory_order_acquire);
    if (!lane) continue;
    uint32_t state = lane->state.load();
    while ((state == Lane::kWaiting || state == Lane::kSleeping) && !lane->state.compare_exchange_weak(state, Lane::kLost)) {
    }
    futex_wake(lane->state, 1);
  }
}

void Session::at_exit() {
  if (g_forked.load()) return;
  Session* session = get();
  uint32_t live = CUDA_SUCCESS;
  if (g_watched.load() & kWatchTrace) Trace::instance().finish(kGoodbyeMs);
  bool was_live = g_gate.compare_exchange_strong(live, CUDA_ERROR_DEINITIALIZED);
  g_gate.store(CUDA_ERROR_DEINITIALIZED);
  if (was_live) session->stream_.drain(kGoodbyeMs);
  session->lose(ok_status(), CUDA_ERROR_DEINITIALIZED);
  session->write_prints();
}

void Session::at_fork_child() {
  SharedMemory::instance().in_forked_child();
  if (!g_used.load(std::memory_order_relaxed)) return;
  g_forked.store(true);
  stop_watching();
  g_gate.store(CUDA_ERROR_NOT_INITIALIZED);
  // Only the parent speaks for the session; open copies here would hide its death from the worker.
  if (Session* session = get()) {
    for (int socket : session->sockets_) ::close(socket);
  }
}

// --- Lanes ---------------------------------------------------------------------------------------------------------------

Lane* Session::acquire_lane() {
  std::lock_guard guard(lanes_lock_);
  if (!free_lanes_.empty()) {
    Lane* lane = free_lanes_.back();
    free_lanes_.pop_back();
    return lane;
  }
  if (lanes_made_ == limits::kLanes) return nullptr;
  auto* lane = new Lane;
  lane->id = lanes_made_;
  lanes_[lanes_made_++].store(lane, std::memory_order_release);
  return lane;
}

void Session::release_lane(Lane* lane) {
  if (lane->twin_mode != CU_STREAM_CAPTURE_MODE_GLOBAL) return;  // no other thread may inherit that
  std::lock_guard guard(lanes_lock_);
  free_lanes_.push_back(lane);
}

// --- Calls ---------------------------------------------------------------------------------------------------------------

bool Session::post(Lane& lane, uint16_t opcode, uint16_t flags, Bytes body, const Payload& payload) {
  FrameHeader header{uint32_t(body.size()), uint32_t(payload.bytes), opcode, uint16_t(flags | kPost), lane.id};
  return stream_.append(header, body, payload, CallStream::Urgency::kLater);
}

CUresult Session::call(Lane& lane, uint16_t opcode, uint16_t flags, Bytes body, const Payload& payload) {
  FrameHeader header{uint32_t(body.size()), uint32_t(payload.bytes), opcode, flags, lane.id};
  lane.opcode = opcode;
  const Uncancelled uncancelled;
  lane.state.store(Lane::kWaiting, std::memory_order_release);
  waiting_.fetch_add(1, std::memory_order_relaxed);
  bool sent = stream_.append(header, body, payload, CallStream::Urgency::kNow);
  CUresult result = sent ? await_reply(lane) : CUDA_ERROR_DEVICE_UNAVAILABLE;
  waiting_.fetch_sub(1, std::memory_order_relaxed);
  lane.state.store(Lane::kIdle, std::memory_order_relaxed);
  if (result != CUDA_SUCCESS && gate() == CUDA_ERROR_DEINITIALIZED) return CUDA_ERROR_DEINITIALIZED;
  return result;
}

CUresult Session::await_reply(Lane& lane) {
  const auto waits = [&] { return lane.state.load(std::memory_order_acquire) == Lane::kWaiting; };
  const auto receive = [&] { return receiver_.receive_while(waits, kSpin); };
  for (transport::LookOut look(kSpin); waits() && !receive() && !look.over();) {
    for (int i = 0; i < 32 && waits(); ++i) transport::relax_cpu();
  }
  std::optional<Receiver::Waiter> waiter;
  if (waits()) {
    waiter.emplace(receiver_);
    receive();
  }
  for (;;) {
    uint32_t state = lane.state.load(std::memory_order_acquire);
    if (state == Lane::kReplied) return CUDA_SUCCESS;
    if (state == Lane::kLost) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    if (state == Lane::kSleeping || lane.state.compare_exchange_strong(state, Lane::kSleeping)) {
      futex_wait(lane.state, Lane::kSleeping);
    }
  }
}

CUresult Session::settle(uint64_t watermark) {
  if (!landing_.wait(watermark, 0)) return gate() == CUDA_SUCCESS ? CUDA_ERROR_DEVICE_UNAVAILABLE : gate();
  if (has_prints_.load(std::memory_order_acquire)) write_prints();
  return CUDA_SUCCESS;
}

std::shared_ptr<Session::Send> Session::start_send(Session& session) {
  session.sends_.fetch_add(1, std::memory_order_relaxed);
  return {new Send, [&session](Send* send) {
            session.sends_.fetch_sub(1, std::memory_order_release);
            delete send;
          }};
}

uint64_t Session::queue_send(const void* data, size_t bytes, const std::shared_ptr<Send>& send) {
  return link_->bulk().send(next_transfer_++, data, bytes, [send](const Status&) {
    send->done.store(1, std::memory_order_release);
    futex_wake(send->done, INT_MAX);
  });
}

void Session::await_send(Send& send) {
  WatchWait waiting("wait until the bytes have left");
  while (send.done.load(std::memory_order_acquire) == 0) futex_wait_eagerly(send.done, 0);
}

// --- Errors and prints -----------------------------------------------------------------------------------------------------

void Session::note_result(CUresult result) {
  if (result == CUDA_SUCCESS) [[likely]] return;
  if (is_sticky(result)) sticky_.store(result, std::memory_order_release);
  if (is_capture_error(result)) capture_troubles_.fetch_add(1, std::memory_order_acq_rel);
}

CUresult Session::take_async_error(CUresult result) {
  note_result(result);
  if (sticky() != CUDA_SUCCESS) return sticky();
  if (latched_.load(std::memory_order_acquire) == CUDA_SUCCESS) return result;
  auto latched = CUresult(latched_.exchange(CUDA_SUCCESS));
  return latched != CUDA_SUCCESS ? latched : result;
}

void Session::clear_errors() {
  sticky_.store(CUDA_SUCCESS, std::memory_order_release);
  latched_.store(CUDA_SUCCESS, std::memory_order_release);
}

// Whoever receives a reply writes out what was printed before it. The lock of the stream comes first, then ours: the
// program may hold the former while it waits for a reply.
void Session::write_prints() {
  flockfile(stdout);
  std::vector<std::pair<int, std::string>> prints;
  {
    std::lock_guard guard(prints_lock_);
    prints.swap(prints_);
    has_prints_.store(false, std::memory_order_relaxed);
  }
  for (auto& [fd, text] : prints) fwrite(text.data(), 1, text.size(), fd == 2 ? stderr : stdout);
  funlockfile(stdout);
}

// --- Receiving -------------------------------------------------------------------------------------------------------------

// Is somebody likely to wait for an answer soon, and to receive it himself?
bool Session::program_works() {
  const auto now = std::chrono::steady_clock::now();
  if (const uint64_t before = std::exchange(appended_before_, stream_.appended()); appended_before_ != before) worked_at_ = now;
  return waiting_.load(std::memory_order_relaxed) > 0 || now < worked_at_ + kWorks;
}

bool Session::dispatch(const FrameHeader& header, Bytes body, Bytes payload) {
  if (header.flags & kReply) return on_reply(header, body, payload);
  switch (Opcode(header.opcode)) {
    case Opcode::kData: {
      auto notice = control::decode_DataNotice(body);
      return notice.ok() && landing_.data(notice->ticket, notice->offset, payload, notice->watermark);
    }
    case Opcode::kHostChanges:
      if (!Mirrors::instance().apply(payload)) return false;
      landing_.data_frame();
      return true;
    case Opcode::kAsyncError: {
      auto notice = control::decode_AsyncErrorNotice(body);
      if (!notice.ok()) return false;
      BF_DEBUG("call {} failed asynchronously with {}", notice->opcode, notice->result);
      auto result = CUresult(notice->result);
      note_result(result);
      int none = CUDA_SUCCESS;
      // What broke a capture is told by the end of the capture.
      if (!is_sticky(result) && !is_capture_error(result)) latched_.compare_exchange_strong(none, int(notice->result));
      return true;
    }
    case Opcode::kPrint: {
      auto notice = control::decode_PrintNotice(body);
      if (!notice.ok()) return false;
      size_t waiting = 0;
      {
        std::lock_guard guard(prints_lock_);
        prints_.emplace_back(int(notice->fd), std::string(reinterpret_cast<const char*>(payload.data()), payload.size()));
        has_prints_.store(true, std::memory_order_release);
        for (auto& print : prints_) waiting += print.second.size();
      }
      if (waiting > kPrintBytes) write_prints();
      return true;
    }
    default:
      return false;
  }
}

bool Session::on_reply(const FrameHeader& header, Bytes body, Bytes payload) {
  Lane* lane = lanes_[header.lane].load(std::memory_order_acquire);
  if (!lane) return false;
  uint32_t state = lane->state.load(std::memory_order_acquire);
  if ((state != Lane::kWaiting && state != Lane::kSleeping) || lane->opcode != header.opcode) return state == Lane::kLost;
  if (lane->reply.capacity() > kKeepBytes && body.size() + payload.size() < kKeepBytes) lane->reply = {};
  lane->reply.assign(body.begin(), body.end());
  lane->reply.insert(lane->reply.end(), payload.begin(), payload.end());
  lane->reply_body_bytes = body.size();
  state = lane->state.load();
  while ((state == Lane::kWaiting || state == Lane::kSleeping) && !lane->state.compare_exchange_weak(state, Lane::kReplied)) {
  }
  if (state == Lane::kSleeping) futex_wake(lane->state, 1);
  return true;
}

}  // namespace bf::client
