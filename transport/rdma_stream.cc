#include <algorithm>
#include <cstring>
#include <thread>

#include "transport/rdma_link.h"

namespace bf::transport::rdma {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr uint32_t kSignalEvery = 16;  // one completion tells of all sends before it
// A peer that reads at all gives credit back soon.
constexpr microseconds kCreditSpin{20}, kAtOnce{0};

Status shut_here() { return {StatusCode::kUnavailable, "the link was shut on this side"}; }
Status lie() { return {StatusCode::kInvalid, "the peer sent an RDMA message that cannot be true"}; }

void relax() { std::this_thread::yield(); }

}  // namespace

Status RdmaStream::open(ibv_pd* pd) {
  auto buffer = Buffer::make(pd, (credits_ + kReserved + send_slots()) * kMessageBytes, IBV_ACCESS_LOCAL_WRITE);
  if (!buffer.ok()) return buffer.status();
  buffer_ = std::move(*buffer);
  for (uint32_t slot = 0; slot < credits_ + kReserved; slot++) post_receive(slot);
  return fate_.gone() ? fate_.why() : ok_status();
}

Status RdmaStream::gone() const {
  if (fate_.gone()) return {StatusCode::kUnavailable, fate_.why().message()};
  return {StatusCode::kUnavailable, "the peer closed the link"};
}

// --- Sending

Status RdmaStream::send(std::span<const iovec> parts) {
  size_t part = 0, offset = 0;
  auto skip_empty = [&] {
    while (part < parts.size() && offset == parts[part].iov_len) {
      part++;
      offset = 0;
    }
    return part < parts.size();
  };
  while (skip_empty()) {
    BF_RETURN_IF_ERROR(wait_for_credit());
    BF_RETURN_IF_ERROR(wait_for_room());
    std::lock_guard lock(post_mutex_);
    if (ended_) return shut_here();
    size_t filled = 0;
    std::byte* message = send_slot(posted_);
    while (filled < kMessageBytes && skip_empty()) {
      size_t count = std::min(kMessageBytes - filled, parts[part].iov_len - offset);
      memcpy(message + filled, static_cast<const std::byte*>(parts[part].iov_base) + offset, count);
      filled += count;
      offset += count;
    }
    sent_++;  // before the peer can speak of it
    BF_RETURN_IF_ERROR(post_locked(filled, false));
  }
  if (shut_) return shut_here();
  return fate_.gone() || peer_ended_ ? gone() : ok_status();
}

Status RdmaStream::wait_for_credit() {
  if (!may_send())
    wait(kCreditSpin, [&] { return may_send() || shut_ || peer_ended_ || fate_.gone(); });
  if (shut_) return shut_here();
  return peer_ended_ || fate_.gone() ? gone() : ok_status();
}

// Credit bounds what is under way below the size of the queue; only acknowledgements that are late (lost packets) can
// fill it.
Status RdmaStream::wait_for_room() {
  for (int round = 0;; round++) {
    {
      std::lock_guard lock(post_mutex_);
      reap_locked();
      if (posted_ - completed_ < send_slots() - 2 * kReserved) return ok_status();
    }
    if (shut_) return shut_here();
    if (fate_.gone()) return gone();
    round < 1000 ? relax() : std::this_thread::sleep_for(microseconds(100));
  }
}

Status RdmaStream::post_locked(size_t bytes, bool end) {
  uint64_t number = posted_;
  uint32_t freed = freed_;
  ibv_sge piece{uint64_t(send_slot(number)), uint32_t(bytes), buffer_->region().local_key()};
  ibv_send_wr request{};
  request.wr_id = number + 1;
  request.sg_list = &piece;
  request.num_sge = bytes > 0 ? 1 : 0;
  request.opcode = IBV_WR_SEND_WITH_IMM;
  request.imm_data = htobe32((freed & ~kEnd) | (end ? kEnd : 0));
  if (end || (number + 1) % kSignalEvery == 0) request.send_flags |= IBV_SEND_SIGNALED;
  if (bytes > 0 && bytes <= connection_.inline_bytes()) request.send_flags |= IBV_SEND_INLINE;
  Status status = connection_.post(request);
  if (!status.ok()) {
    if (!fate_.gone()) broken_(status);
    return gone();
  }
  posted_++;
  announced_ = freed;
  return ok_status();
}

void RdmaStream::reap_locked() {
  ibv_wc completions[16];
  for (;;) {
    int count = connection_.sends().poll(completions);
    for (int i = 0; i < count; i++) {
      if (completions[i].status == IBV_WC_SUCCESS) {
        completed_ = completions[i].wr_id;
      } else if (!fate_.gone()) {
        broken_(completion_error(completions[i]));
      }
    }
    if (count < int(std::size(completions))) return;
  }
}

bool RdmaStream::drained() {
  std::lock_guard lock(post_mutex_);
  reap_locked();
  return completed_ == posted_;
}

void RdmaStream::shut() noexcept {
  if (!shut_.exchange(true)) {
    std::lock_guard lock(post_mutex_);
    reap_locked();
    ended_ = true;
    if (!fate_.gone() && posted_ - completed_ < send_slots()) (void)post_locked(0, true);
  }
  wake();
}

// --- Receiving

void RdmaStream::post_receive(uint32_t slot) {
  ibv_sge piece{uint64_t(receive_slot(slot)), kMessageBytes, buffer_->region().local_key()};
  ibv_recv_wr request{};
  request.wr_id = slot;
  request.sg_list = &piece;
  request.num_sge = 1;
  Status status = connection_.post(request);
  if (!status.ok() && !fate_.gone()) broken_(status);
}

// Takes what has come: bytes for the receiver, credit for the sender.
void RdmaStream::progress_locked() {
  ibv_wc completions[16];
  bool news = false;
  for (;;) {
    int count = connection_.receives().poll(completions);
    for (int i = 0; i < count; i++) {
      const ibv_wc& one = completions[i];
      news = true;
      if (one.status != IBV_WC_SUCCESS) {
        {
          std::lock_guard lock(post_mutex_);
          reap_locked();  // a send that failed took the receives along: it knows why
        }
        if (!fate_.gone()) broken_(completion_error(one));
        continue;
      }
      uint32_t immediate = be32toh(one.imm_data), freed = immediate & ~kEnd;
      uint32_t known = peer_freed_;
      bool possible = one.opcode == IBV_WC_RECV && (one.wc_flags & IBV_WC_WITH_IMM) && !peer_ended_ &&
                      ((freed - known) & ~kEnd) <= ((sent_ - known) & ~kEnd) &&
                      (one.byte_len == 0 || (arrived_.size() < credits_ && !(immediate & kEnd)));
      if (!possible) {
        if (!fate_.gone()) broken_(lie());
        continue;
      }
      peer_freed_ = freed;
      if (immediate & kEnd) peer_ended_ = true;
      if (one.byte_len > 0) {
        arrived_.push_back({uint32_t(one.wr_id), one.byte_len});
      } else {
        post_receive(uint32_t(one.wr_id));
      }
    }
    if (count < int(std::size(completions))) break;
  }
  if (news && waiters_ > 0) changed_.notify_all();
}

// Sender and receiver may wait here at once, each for its own: both poll; one sleeps on the completion channel, the
// other until that one has looked.
template <typename Done>
void RdmaStream::wait(LookOut look, Done done) {
  while (!look.over()) {
    for (int i = 0; i < 16; i++) {
      std::lock_guard lock(receive_mutex_);
      progress_locked();
      if (done()) return;
    }
    relax();  // lets the peer run if it shares this core
  }
  std::unique_lock lock(receive_mutex_);
  waiters_++;
  for (;;) {
    progress_locked();
    if (done()) break;
    if (sleeping_) {
      changed_.wait(lock);
      continue;
    }
    Completions& completions = connection_.receives();
    completions.arm();
    progress_locked();
    if (done()) break;
    sleeping_ = true;
    lock.unlock();
    completions.sleep(wake_);
    lock.lock();
    completions.drain();
    sleeping_ = false;
    changed_.notify_all();
  }
  waiters_--;
  changed_.notify_all();
}

// Under receive_mutex_, after progress_locked(): what came before the end counts.
bool RdmaStream::anything() const { return !arrived_.empty() || peer_ended_ || shut_ || fate_.gone(); }

bool RdmaStream::ready() {
  std::lock_guard lock(receive_mutex_);
  progress_locked();
  return anything();
}

void RdmaStream::wait_until_ready() {
  wait(kAtOnce, [this] { return anything(); });
}

Result<size_t> RdmaStream::receive(std::span<std::byte> buffer) {
  wait_until_ready();
  std::unique_lock lock(receive_mutex_);
  progress_locked();
  if (shut_) return shut_here();
  if (arrived_.empty()) {
    if (peer_ended_) return size_t{0};
    return gone();
  }
  size_t done = 0;
  while (!arrived_.empty() && done < buffer.size()) {
    Message& message = arrived_.front();
    size_t count = std::min(buffer.size() - done, message.bytes - taken_);
    memcpy(buffer.data() + done, receive_slot(message.slot) + taken_, count);
    done += count;
    taken_ += count;
    if (taken_ < message.bytes) break;
    taken_ = 0;
    post_receive(message.slot);
    arrived_.pop_front();
    freed_++;
  }
  if (((freed_ - announced_) & ~kEnd) >= credits_ / 4) announce();
  return done;
}

// Credit alone, where no message of ours takes it along.
void RdmaStream::announce() {
  std::lock_guard lock(post_mutex_);
  reap_locked();
  if (!ended_ && !fate_.gone() && posted_ - completed_ < send_slots() - 1) (void)post_locked(0, false);
}

}  // namespace bf::transport::rdma
