// The session: this process's one connection to its worker.
//
// It is made by the first call that needs it and never destroyed: the program may call CUDA until its very end, from any
// thread. What ends it is written into g_gate (proto/api/call_channel.h), one word that every call reads first:
//   CUDA_SUCCESS            live
//   NOT_INITIALIZED (3)     cuInit has not been called; or a forked child of a process that used CUDA
//   DEINITIALIZED (4)       exit handlers have run
//   DEVICE_UNAVAILABLE (46) the link is lost
//
// Threads: a receiver for what nobody waits for (client/receiver.h), a flusher (client/call_stream.h), and a callback thread that
// runs host functions one after another. All block every signal.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "client/attach.h"
#include "client/call_stream.h"
#include "client/callbacks.h"
#include "client/landing.h"
#include "client/receiver.h"
#include "client/watch.h"
#include "proto/api/call_channel.h"
#include "proto/session.h"
#include "transport/thread.h"

namespace bf::client {

// One client thread's ordered sequence of calls. Owned by the thread that holds it; lives as long as the session and is
// handed on when the thread ends, with the twin's state described by its fields.
struct Lane {
  enum State : uint32_t { kIdle, kWaiting, kSleeping, kReplied, kLost };

  uint32_t id = 0;
  std::atomic<uint32_t> state{kIdle};
  uint64_t twin_context = 0;     // what the twin's driver thread has current, and which life of it
  uint32_t twin_epoch = 0;
  CUstreamCaptureMode twin_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  // The last reply: body, then payload; valid until the lane's next call.
  std::vector<std::byte> reply;
  size_t reply_body_bytes = 0;
  uint16_t opcode = 0;           // of the outstanding call
};

class Session {
 public:
  static CUresult gate() { return CUresult(g_gate.load(std::memory_order_acquire)); }
  // The same for what the snapshot answers: a lost session still answers it.
  static CUresult questions_gate();

  // cuInit: attaches if that has not happened. NO_DEVICE without a server, DEVICE_UNAVAILABLE if it cannot be reached.
  static CUresult start();
  // The session, or nullptr before start() succeeded. Valid forever once made, also when lost.
  static Session* get() { return instance_.load(std::memory_order_acquire); }

  // CUDA_LAUNCH_BLOCKING: a launch waits for its kernel.
  bool launch_blocking() const { return launch_blocking_; }
  const SessionSnapshot& snapshot() const { return snapshot_; }
  Landing& landing() { return landing_; }
  Callbacks& callbacks() { return callbacks_; }
  transport::Link& link() { return *link_; }

  // The calling thread's lane; nullptr when limits::kLanes threads hold one.
  Lane* acquire_lane();
  void release_lane(Lane* lane);

  // Appends a frame without an answer. False when the session is lost.
  bool post(Lane& lane, uint16_t opcode, uint16_t flags, Bytes body, const Payload& payload);
  // Appends a frame and waits for its answer: lane.reply. The gate's error when the session ends meanwhile.
  CUresult call(Lane& lane, uint16_t opcode, uint16_t flags, Bytes body, const Payload& payload);
  // After a reply: waits for the bulk blocks it speaks of, then writes what device code printed before it.
  CUresult settle(uint64_t watermark);

  // Frames that have been appended so far, by all threads.
  uint64_t appended() const { return stream_.appended(); }

  // Sends `data` as a bulk transfer; `append` puts the frame that names it into the order. The two happen together, so
  // that blocks travel in the order of their frames. With `wait`, returns when the bytes are no longer needed.
  // `owner` is kept until then.
  template <typename Append>
  CUresult send_bulk(const void* data, size_t bytes, bool wait, std::shared_ptr<void> owner, Append append);
  // Large sends whose bytes are still needed.
  bool sends_outstanding() const { return sends_.load(std::memory_order_acquire) > 0; }

  // Asynchronous errors. A sticky one is what every later call of the context returns.
  CUresult sticky() const { return CUresult(sticky_.load(std::memory_order_acquire)); }
  void note_result(CUresult result);
  // What a synchronising call that itself gave `result` returns.
  CUresult take_async_error(CUresult result);
  // The context is gone, and its errors with it.
  void clear_errors();
  // How many errors that invalidate captures there have been.
  uint64_t capture_troubles() const { return capture_troubles_.load(std::memory_order_acquire); }

  // Ends the session for this process: every waiter wakes, every later call gives `code`.
  void lose(const Status& why, CUresult code = CUDA_ERROR_DEVICE_UNAVAILABLE);

 private:
  explicit Session(Attached attached);
  Status run();
  bool dispatch(const FrameHeader& header, Bytes body, Bytes payload);
  bool on_reply(const FrameHeader& header, Bytes body, Bytes payload);
  CUresult await_reply(Lane& lane);
  bool program_works();
  void write_prints();
  struct Send;
  static std::shared_ptr<Send> start_send(Session& session);
  uint64_t queue_send(const void* data, size_t bytes, const std::shared_ptr<Send>& send);
  static void await_send(Send& send);
  static void at_exit();
  static void at_fork_child();

  static std::atomic<Session*> instance_;

  std::unique_ptr<transport::Link> link_;
  std::vector<int> sockets_;
  SessionSnapshot snapshot_;
  bool launch_blocking_ = false;
  Landing landing_;
  CallStream stream_;
  Receiver receiver_;
  Callbacks callbacks_;
  std::vector<transport::Thread> threads_;

  std::atomic<uint32_t> waiting_{0};                   // lanes that wait for a reply
  uint64_t appended_before_ = 0;                       // the receiver thread's: stream_.appended() when it looked last,
  std::chrono::steady_clock::time_point worked_at_{};  // and when that had grown

  SpinLock lanes_lock_;
  std::array<std::atomic<Lane*>, limits::kLanes> lanes_{};
  uint32_t lanes_made_ = 0;
  std::vector<Lane*> free_lanes_;

  std::mutex bulk_order_;
  uint64_t next_transfer_ = 1;  // under bulk_order_
  std::atomic<uint32_t> sends_{0};

  std::atomic<int> sticky_{0}, latched_{0};
  std::atomic<uint64_t> capture_troubles_{0};

  SpinLock prints_lock_;
  std::vector<std::pair<int, std::string>> prints_;
  std::atomic<bool> has_prints_{false};
};

struct Session::Send {
  std::atomic<uint32_t> done{0};
  std::shared_ptr<void> owner;  // of the bytes
};

template <typename Append>
CUresult Session::send_bulk(const void* data, size_t bytes, bool wait, std::shared_ptr<void> owner, Append append) {
  auto send = start_send(*this);
  send->owner = std::move(owner);
  CUresult result;
  {
    std::lock_guard order(bulk_order_);
    result = append(next_transfer_);
    if (result == CUDA_SUCCESS) queue_send(data, bytes, send);
    if (watched()) watch_bytes_up(bytes);
  }
  if (result == CUDA_SUCCESS && wait) await_send(*send);
  return result;
}

// True for errors that stay with a context until it is destroyed.
bool is_sticky(CUresult result);

}  // namespace bf::client
