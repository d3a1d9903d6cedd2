#include "server/worker/outbox.h"

#include <algorithm>
#include <cstring>

#include "proto/api/wire.h"
#include "proto/session.h"

namespace bf::server {
namespace {

// Header and DataNotice (three varints with their tags).
constexpr size_t kDataHeadBound = sizeof(FrameHeader) + 3 * wire::kVarintBound;
constexpr size_t kOutsBound = limits::kBodyBytes - wire::kReplyHeadBound;

}  // namespace

bool Outbox::Tenure::promise(const Fences::Fence& gate) {
  std::lock_guard guard(mutex_);
  if (over_) return false;
  gate_ = gate;
  return true;
}

bool Outbox::Tenure::take_back() {
  std::lock_guard guard(mutex_);
  gate_ = {};
  return !over_;
}

bool Outbox::Tenure::over() const {
  std::lock_guard guard(mutex_);
  return over_;
}

Fences::Fence Outbox::Tenure::end() {
  std::lock_guard guard(mutex_);
  over_ = true;
  return gate_;
}

// The bytes of a piece are not needed any more.
void Outbox::leave(const StagingSlot& slot, Tenure* tenure) {
  if (const auto gate = tenure ? tenure->end() : Fences::Fence{}; gate.value != 0) {
    fences_.open(gate);
  } else {
    staging_.give(slot);
  }
}

void Outbox::stop() {
  std::lock_guard guard(pieces_mutex_);
  stopped_ = true;
  for (const Piece& piece : pieces_)
    if (piece.tenure) fences_.open(piece.tenure->end());
}

void Outbox::add(const Piece& piece) {
  std::lock_guard guard(pieces_mutex_);
  if (stopped_ && piece.tenure) piece.tenure->end();
  pieces_.push_back(piece);
  open_.store(pieces_.size(), std::memory_order_release);
}

void Outbox::send_locked(std::span<const iovec> parts) {
  uint64_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  bytes_sent_.fetch_add(bytes, std::memory_order_relaxed);
  if (Status status = link_.calls().send(parts); !status.ok()) lost_(status);
}

// Leaves Data frames gathered in parts_, to be sent together with what follows; finished_ keeps their slots.
void Outbox::push_finished_locked() {
  parts_.clear();
  finished_.clear();
  if (!pieces_open()) return;
  {
    std::lock_guard guard(pieces_mutex_);
    // From the newest to the oldest: of two pieces in one stream the older one is done when the newer one is, and must
    // not be missed because it was looked at earlier.
    auto kept = pieces_.end();
    for (auto piece = pieces_.end(); piece != pieces_.begin();) {
      --piece;
      if (fences_.done(piece->fence)) {
        finished_.push_back(*piece);
      } else {
        *--kept = *piece;
      }
    }
    std::reverse(finished_.begin(), finished_.end());
    pieces_.erase(pieces_.begin(), kept);
    open_.store(pieces_.size(), std::memory_order_release);
  }
  heads_.resize(finished_.size() * kDataHeadBound);
  std::byte* head = heads_.data();
  for (const Piece& piece : finished_) {
    fences_.release(piece.fence);
    fences_.release(piece.gate);
    if (piece.bulk) {
      bytes_sent_.fetch_add(piece.bytes, std::memory_order_relaxed);
      if (!piece.slot.device) link_.bulk().remember(piece.slot.data, Staging::kLargeBytes);  // slots are used again and never unmapped
      mark_.watermark = link_.bulk().send(ticket_transfer(piece.ticket, piece.offset), piece.slot.data, piece.bytes,
                                          [this, slot = piece.slot, tenure = piece.tenure](const Status&) { leave(slot, tenure.get()); });
      continue;
    }
    std::byte* body = head + sizeof(FrameHeader);
    std::byte* end = wire::put_u64<1>(body, piece.ticket);
    if (piece.offset) end = wire::put_u64<2>(end, piece.offset);
    if (mark_.watermark) end = wire::put_u64<3>(end, mark_.watermark);
    const FrameHeader header{uint32_t(end - body), piece.bytes, uint16_t(Opcode::kData), 0, 0};
    std::memcpy(head, &header, sizeof(header));
    parts_.push_back({head, size_t(end - head)});
    parts_.push_back({piece.slot.data, piece.bytes});
    ++mark_.data_frames;
    head += kDataHeadBound;
  }
}

void Outbox::forget(std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces)
    if (!piece.bulk) staging_.give(piece.slot);
  pieces.clear();
}

void Outbox::abandon() {
  std::lock_guard guard(pieces_mutex_);
  for (const Piece& piece : pieces_) {
    fences_.release(piece.fence);
    if (!piece.before || !piece.before->take_back()) leave(piece.slot, piece.tenure.get());
    fences_.open(piece.gate);  // its own context may be a sound one
    fences_.release(piece.gate);
  }
  pieces_.clear();
  open_.store(0, std::memory_order_release);
}

Outbox::Mark Outbox::flush() {
  std::lock_guard guard(send_mutex_);
  push_finished_locked();
  if (!parts_.empty()) send_locked(parts_);
  forget(finished_);
  return mark_;
}

void Outbox::reply(uint16_t opcode, uint32_t lane, uint32_t result, std::span<const std::byte> outs,
                   std::span<const std::byte> payload, bool tells) {
  if (outs.size() > kOutsBound || payload.size() > limits::kPayloadBytes) {
    result = CUDA_ERROR_NOT_SUPPORTED;  // no honest answer of that size exists
    outs = payload = {};
  }
  std::lock_guard guard(send_mutex_);
  push_finished_locked();
  std::byte head[sizeof(FrameHeader) + wire::kReplyHeadBound];
  std::byte* end = wire::put_reply_head(head + sizeof(FrameHeader), {result, tells ? mark_.watermark : 0});
  const size_t head_bytes = size_t(end - head);
  const FrameHeader header{uint32_t(head_bytes - sizeof(FrameHeader) + outs.size()), uint32_t(payload.size()), opcode,
                           kReply, lane};
  std::memcpy(head, &header, sizeof(header));
  parts_.push_back({head, head_bytes});
  if (!outs.empty()) parts_.push_back({const_cast<std::byte*>(outs.data()), outs.size()});
  if (!payload.empty()) parts_.push_back({const_cast<std::byte*>(payload.data()), payload.size()});
  send_locked(parts_);
  forget(finished_);
}

void Outbox::host_changes(std::span<const std::byte> patches) {
  FrameHeader header{0, uint32_t(patches.size()), uint16_t(Opcode::kHostChanges), 0, 0};
  const iovec parts[] = {{&header, sizeof(header)}, {const_cast<std::byte*>(patches.data()), patches.size()}};
  std::lock_guard guard(send_mutex_);
  send_locked(parts);
  ++mark_.data_frames;
}

void Outbox::notice(Opcode opcode, std::string_view body, std::span<const std::byte> payload) {
  FrameHeader header{uint32_t(body.size()), uint32_t(payload.size()), uint16_t(opcode), 0, 0};
  const iovec parts[] = {{&header, sizeof(header)},
                         {const_cast<char*>(body.data()), body.size()},
                         {const_cast<std::byte*>(payload.data()), payload.size()}};
  std::lock_guard guard(send_mutex_);
  send_locked(std::span(parts, payload.empty() ? 2 : 3));
}

}  // namespace bf::server
