// Bulk over shared memory. A sender thread copies its block straight into the peer's landing ring and publishes the
// slot; blocks may become ready out of order, but are claimed by the peer's receiver threads in order. A receiver
// either hands the slot to the sink or copies on to where the sink wants it.
#include "transport/shm_link.h"

namespace bf::transport::shm {
namespace {

// Between the blocks of a running transfer nobody should sleep; a block takes about 100 us to copy.
constexpr std::chrono::microseconds kSpin{50};

Status corrupted() {
  return {StatusCode::kInvalid, "the peer wrote bulk blocks into shared memory that cannot be true"};
}

}  // namespace

ShmBulk::ShmBulk(Direction& out, Direction& in, uint32_t channels, const Life& life, std::function<void()> broken)
    : BulkEngine({0, channels}, {0, channels}, limits::kBulkBlocks, SendQueue::kUnbounded, true, std::move(broken)),
      out_(out),
      in_(in),
      life_(life) {
  ring_ = in_.bulk_bytes;
}

Status ShmBulk::write(uint32_t, const SendQueue::Job& job) {
  uint64_t sequence = job.block.sequence;
  BF_RETURN_IF_ERROR(wait_for_room(sequence));
  memcpy(out_.bulk_bytes + sequence % limits::kBulkBlocks * limits::kBulkBlockBytes, job.data, job.block.bytes);
  publish_slot(out_.bulk, job.block);
  return ok_status();
}

Status ShmBulk::wait_for_room(uint64_t sequence) {
  std::lock_guard lock(room_mutex_);
  bool over = false;
  uint64_t released = 0;
  wait_on_bell(out_.bulk.space, kSpin, [&] {
    over = hung_up_ || life_.peer_gone || out_.bulk.closed.load();
    released = out_.bulk.released.load(std::memory_order_seq_cst);
    return over || released < peer_released_ || released > sequence || sequence - released < limits::kBulkBlocks;
  });
  if (over) return gone();
  // Block `sequence` is not sent yet, so it cannot have been released.
  if (released < peer_released_ || released > sequence) return corrupted();
  peer_released_ = released;
  return ok_status();
}

Result<bool> ShmBulk::read(uint32_t) {
  Block block;
  auto more = claim(block);
  if (!more.ok() || !more.value()) return more;
  if (!window_.admit(block)) return corrupted();
  auto to = target(block);
  if (!to.ok()) return to.status();
  if (to->placed) memcpy(to->data, slot(block.sequence), block.bytes);
  BF_RETURN_IF_ERROR(landed(block, *to));
  return true;
}

// Waits for the next block in order and takes it for this thread.
Result<bool> ShmBulk::claim(Block& block) {
  std::lock_guard lock(claim_mutex_);
  bool closed = false, peer_gone = false;
  Arrival arrival = Arrival::kNotYet;
  wait_on_bell(in_.bulk.data, kSpin, [&] {
    closed = in_.bulk.closed.load();
    peer_gone = life_.peer_gone;
    arrival = read_slot(in_.bulk, next_, block);
    return hung_up_ || closed || peer_gone || arrival != Arrival::kNotYet;
  });
  if (hung_up_) return false;
  if (arrival == Arrival::kBroken) return corrupted();
  if (arrival == Arrival::kNotYet) return closed ? Result<bool>(false) : Result<bool>(gone());
  next_++;
  return true;
}

void ShmBulk::hang_up() noexcept {
  hung_up_ = true;
  out_.bulk.closed = 1;
  in_.bulk.closed = 1;
  wake();
}

void ShmBulk::wake() noexcept {
  for (BulkControl* bulk : {&out_.bulk, &in_.bulk}) {
    force_bell(bulk->data);
    force_bell(bulk->space);
  }
}

void ShmBulk::window_moved() {
  std::lock_guard lock(publish_mutex_);
  uint64_t released = window_.released();
  if (released == published_) return;
  published_ = released;
  in_.bulk.released.store(released, std::memory_order_seq_cst);
  ring_bell(in_.bulk.space);
}

}  // namespace bf::transport::shm
