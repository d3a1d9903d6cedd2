#include "transport/shm_link.h"

namespace bf::transport::shm {
namespace {

// A large write becomes visible in pieces, so that the peer copies out while we copy in.
constexpr size_t kPublishBytes = 128 << 10;
// A full ring empties soon if the peer reads at all.
constexpr std::chrono::microseconds kRoomSpin{20}, kAtOnce{0};

Status shut_here() { return {StatusCode::kUnavailable, "the link was shut on this side"}; }

}  // namespace

ShmStream::ShmStream(RingControl& out, std::span<std::byte> out_bytes, RingControl& in, std::span<std::byte> in_bytes,
                     const Life& life, std::function<void()> broken)
    : out_(out), in_(in), writer_(out, out_bytes), reader_(in, in_bytes), life_(life), broken_(std::move(broken)) {}

Status ShmStream::send(std::span<const iovec> parts) {
  size_t unpublished = 0;
  for (const iovec& part : parts) {
    auto* from = static_cast<const std::byte*>(part.iov_base);
    size_t left = part.iov_len;
    while (left > 0) {
      size_t piece = std::min(left, kPublishBytes);
      auto room = writer_.room(piece);
      if (room && *room == 0) {
        if (unpublished > 0) writer_.publish();
        unpublished = 0;
        wait_on_bell(out_.space, kRoomSpin, [&] {
          room = writer_.room(piece);
          return !room || *room > 0 || shut_ || life_.shut || life_.peer_gone || out_.closed.load();
        });
      }
      if (shut_ || life_.shut) return shut_here();
      if (life_.peer_gone || out_.closed.load()) return gone();
      if (!room) return corrupted();
      size_t count = std::min(piece, *room);
      writer_.put(from, count);
      from += count;
      left -= count;
      unpublished += count;
      if (unpublished >= kPublishBytes) {
        writer_.publish();
        unpublished = 0;
      }
    }
  }
  if (unpublished > 0) writer_.publish();
  return ok_status();
}

// First whether it ended, then what is there: the last bytes were published before the end.
ShmStream::State ShmStream::look() {
  State state;
  state.shut = shut_ || life_.shut;
  state.closed = in_.closed.load();
  state.peer_gone = life_.peer_gone;
  state.bytes = reader_.available();
  return state;
}

bool ShmStream::ready() { return look().anything(); }

// The receiver may be at work: what it has taken is only seen in shared memory here, where the peer could write anything. That would
// have us look again. To be rung once is enough, even if the receiver was quicker: it polls then, and to ring costs the peer a system
// call each time it sends.
void ShmStream::wait_until_ready() {
  wait_on_bell(
      in_.data, kAtOnce, [this] { return shut_ || life_.shut || in_.closed.load() || life_.peer_gone || in_.head.load() != in_.tail.load(); },
      true);
}

Result<size_t> ShmStream::receive(std::span<std::byte> buffer) {
  State state;
  wait_on_bell(in_.data, kAtOnce, [&] { return (state = look()).anything(); });
  if (state.shut) return shut_here();
  if (!state.bytes) return corrupted();
  if (*state.bytes > 0) {
    size_t count = std::min(*state.bytes, buffer.size());
    reader_.take(buffer.data(), count);
    return count;
  }
  return state.closed ? Result<size_t>(size_t{0}) : Result<size_t>(gone());
}

void ShmStream::shut() noexcept {
  shut_ = true;
  out_.closed = 1;
  in_.closed = 1;
  wake();
}

void ShmStream::wake() noexcept {
  for (RingControl* ring : {&out_, &in_}) {
    force_bell(ring->data);
    force_bell(ring->space);
  }
}

Status ShmStream::corrupted() {
  broken_();
  return {StatusCode::kInvalid, "the peer wrote positions into shared memory that cannot be true"};
}

}  // namespace bf::transport::shm
