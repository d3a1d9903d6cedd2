#include <algorithm>
#include <cstring>
#include <thread>

#include "transport/rdma_link.h"

namespace bf::transport::rdma {
namespace {

using Clock = std::chrono::steady_clock;

// Between the blocks of a running transfer nobody should sleep; 1 MiB takes 84 us at 100 Gb/s.
constexpr std::chrono::microseconds kSpin{50};

Status closed_here() { return {StatusCode::kUnavailable, "the link was closed on this side"}; }
Status lie() { return {StatusCode::kInvalid, "the peer sent an RDMA block that cannot be true"}; }

}  // namespace

RdmaBulk::RdmaBulk(uint32_t channels, Buffer& landing, ibv_pd* pd, const Fate& fate,
                   std::function<void(const Status&)> broken)
    : BulkEngine({0, channels}, {0, channels}, limits::kBulkBlocks, limits::kBulkBlocks, true,
                 [broken] { broken(Status(StatusCode::kInternal, "the bulk part of the link failed")); }),
      fate_(fate),
      broken_(std::move(broken)),
      pd_(pd),
      landing_(landing),
      regions_(pd, kCacheBytes) {
  ring_ = {landing.data(), kRingBytes};
  for (uint32_t i = 0; i < channels; i++) lanes_.push_back(std::make_unique<Lane>());
}

Status RdmaBulk::open(uint32_t channel, Connection& connection) {
  Lane& lane = *lanes_[channel];
  lane.connection = &connection;
  auto staging = Buffer::make(pd_, staging_bytes(), 0);
  if (!staging.ok()) return staging.status();
  lane.staging = std::move(*staging);
  for (uint32_t i = 0; i < kReceives; i++) BF_RETURN_IF_ERROR(post_receive(lane));
  return ok_status();
}

// --- Sending

// The engine ends the link for whatever is not an orderly end; the reason is told before.
Status RdmaBulk::write(uint32_t channel, const SendQueue::Job& job) {
  Status status = write_job(*lanes_[channel], job);
  if (!status.ok() && !hung_up_) broken_(status);
  return status;
}

Result<bool> RdmaBulk::read(uint32_t channel) {
  auto more = read_one(*lanes_[channel]);
  if (!more.ok() && !hung_up_) broken_(more.status());
  return more;
}

Status RdmaBulk::write_job(Lane& lane, const SendQueue::Job& job) {
  if (hung_up_) return closed_here();
  if (fate_.gone()) return {StatusCode::kUnavailable, fate_.why().message()};
  if (job.is_credit) return post_empty(lane, uint32_t(job.block.sequence) & ~kEnd);
  const uint64_t slot = job.block.sequence % limits::kBulkBlocks;
  if (auto region = regions_.find(job.data, job.block.bytes)) {
    BF_RETURN_IF_ERROR(post_chunk(lane, job.data, region->local_key(), job.block.bytes, slot, 0));
    auto number = post_header(lane, job.block);
    if (!number.ok()) return number.status();
    return wait_sent(lane, *number);
  }
  const size_t stage = lane.stages_used++ % kStages;
  BF_RETURN_IF_ERROR(wait_sent(lane, lane.busy_until[stage]));
  std::byte* staging = lane.staging->data() + stage * limits::kBulkBlockBytes;
  for (size_t at = 0; at < job.block.bytes; at += kChunkBytes) {
    size_t count = std::min(kChunkBytes, job.block.bytes - at);
    memcpy(staging + at, job.data + at, count);
    BF_RETURN_IF_ERROR(
        post_chunk(lane, staging + at, lane.staging->region().local_key(), uint32_t(count), slot, at));
  }
  auto number = post_header(lane, job.block);
  if (!number.ok()) return number.status();
  lane.busy_until[stage] = *number;
  return ok_status();
}

Status RdmaBulk::post(Lane& lane, ibv_send_wr& request) {
  while (lane.posted - lane.completed >= kSends - 2) BF_RETURN_IF_ERROR(wait_sent(lane, lane.completed + 1));
  std::lock_guard lock(lane.post_mutex);
  if (hung_up_) return closed_here();
  request.wr_id = ++lane.posted;
  Status status = lane.connection->post(request);
  if (!status.ok()) lane.posted--;
  return status;
}

Status RdmaBulk::post_chunk(Lane& lane, const std::byte* data, uint32_t key, uint32_t bytes, uint64_t slot,
                            uint64_t offset) {
  ibv_sge piece{uint64_t(data), bytes, key};
  ibv_send_wr request{};
  request.sg_list = &piece;
  request.num_sge = 1;
  request.opcode = IBV_WR_RDMA_WRITE;
  request.wr.rdma.remote_addr = peer_.address + slot * limits::kBulkBlockBytes + offset;
  request.wr.rdma.rkey = peer_.key;
  return post(lane, request);
}

// The number of the request, once complete: the block is at the peer.
Result<uint64_t> RdmaBulk::post_header(Lane& lane, const Block& block) {
  const uint64_t slot = block.sequence % limits::kBulkBlocks;
  std::byte* place = lane.staging->data() + kStages * limits::kBulkBlockBytes +
                     lane.posted % kSends * sizeof(BulkHeader);
  BulkHeader header{block.sequence, block.transfer, block.offset, block.bytes, 0};
  memcpy(place, &header, sizeof header);
  ibv_sge piece{uint64_t(place), sizeof header, lane.staging->region().local_key()};
  ibv_send_wr request{};
  request.sg_list = &piece;
  request.num_sge = 1;
  request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  request.imm_data = htobe32(uint32_t(slot));
  request.send_flags = IBV_SEND_SIGNALED;
  if (lane.connection->inline_bytes() >= sizeof header) request.send_flags |= IBV_SEND_INLINE;
  request.wr.rdma.remote_addr = peer_.address + kRingBytes + slot * sizeof header;
  request.wr.rdma.rkey = peer_.key;
  BF_RETURN_IF_ERROR(post(lane, request));
  return request.wr_id;
}

Status RdmaBulk::post_empty(Lane& lane, uint32_t immediate) {
  ibv_send_wr request{};
  request.opcode = IBV_WR_SEND_WITH_IMM;
  request.imm_data = htobe32(immediate);
  request.send_flags = IBV_SEND_SIGNALED;
  return post(lane, request);
}

Status RdmaBulk::reap(Lane& lane) {
  ibv_wc completions[16];
  int count = lane.connection->sends().poll(completions);
  for (int i = 0; i < count; i++) {
    if (completions[i].status != IBV_WC_SUCCESS) return completion_error(completions[i]);
    lane.completed = completions[i].wr_id;
  }
  return ok_status();
}

Status RdmaBulk::wait_sent(Lane& lane, uint64_t number) {
  Completions& completions = lane.connection->sends();
  for (auto spin_until = Clock::now() + kSpin;;) {
    BF_RETURN_IF_ERROR(reap(lane));
    if (lane.completed >= number) return ok_status();
    if (hung_up_) return closed_here();
    if (fate_.gone()) return {StatusCode::kUnavailable, fate_.why().message()};
    if (Clock::now() < spin_until) {
      std::this_thread::yield();
      continue;
    }
    completions.arm();
    BF_RETURN_IF_ERROR(reap(lane));
    if (lane.completed >= number) return ok_status();
    completions.sleep(wake_);
    completions.drain();
  }
}

void RdmaBulk::window_moved() {
  if (auto released = window_.due_credit()) queue_.announce(*released);
}

void RdmaBulk::hang_up() noexcept {
  if (!hung_up_.exchange(true) && !fate_.gone()) {
    for (auto& lane : lanes_) {
      if (!lane->connection) continue;
      std::lock_guard lock(lane->post_mutex);
      if (lane->posted - lane->completed >= kSends) continue;
      ibv_send_wr request{};
      request.wr_id = ++lane->posted;
      request.opcode = IBV_WR_SEND_WITH_IMM;
      request.imm_data = htobe32(kEnd);
      request.send_flags = IBV_SEND_SIGNALED;
      if (!lane->connection->post(request).ok()) lane->posted--;
    }
  }
  wake();
}

bool RdmaBulk::drained() {
  for (auto& lane : lanes_) {
    if (!reap(*lane).ok()) return true;
    if (lane->completed < lane->posted) return false;
  }
  return true;
}

// --- Receiving

Status RdmaBulk::post_receive(Lane& lane) {
  ibv_recv_wr request{};
  return lane.connection->post(request);
}

Result<bool> RdmaBulk::read_one(Lane& lane) {
  Completions& completions = lane.connection->receives();
  ibv_wc one;
  for (auto spin_until = Clock::now() + kSpin;;) {
    if (hung_up_) return false;
    bool gone = fate_.gone();  // looked at before the queue: what came before the end counts
    if (completions.poll(std::span(&one, 1)) > 0) break;
    if (gone) return Status(StatusCode::kUnavailable, fate_.why().message());
    if (Clock::now() < spin_until) {
      std::this_thread::yield();
      continue;
    }
    completions.arm();
    if (completions.poll(std::span(&one, 1)) > 0) break;
    completions.sleep(wake_);
    completions.drain();
  }
  if (one.status != IBV_WC_SUCCESS) {
    BF_RETURN_IF_ERROR(reap(lane));  // a send that failed took the receives along: it knows why
    return completion_error(one);
  }
  BF_RETURN_IF_ERROR(post_receive(lane));
  const uint32_t immediate = be32toh(one.imm_data);
  if (one.opcode == IBV_WC_RECV && one.byte_len == 0 && (one.wc_flags & IBV_WC_WITH_IMM)) {
    if (immediate == kEnd) return false;
    BF_RETURN_IF_ERROR(take_credit(immediate));
    return true;
  }
  if (one.opcode != IBV_WC_RECV_RDMA_WITH_IMM || immediate >= limits::kBulkBlocks) return lie();
  BulkHeader header;
  memcpy(&header, landing_.data() + kRingBytes + immediate * sizeof header, sizeof header);
  Block block{header.sequence, header.transfer, header.offset, header.bytes};
  if (block.sequence % limits::kBulkBlocks != immediate || !window_.admit(block)) return lie();
  auto to = target(block);
  if (!to.ok()) return to.status();
  if (to->placed) memcpy(to->data, slot(block.sequence), block.bytes);
  BF_RETURN_IF_ERROR(landed(block, *to));
  return true;
}

// The immediate holds the watermark modulo 2^31; watermarks of other channels may have overtaken it.
Status RdmaBulk::take_credit(uint32_t immediate) {
  std::lock_guard lock(credit_mutex_);
  uint32_t ahead = (immediate - uint32_t(credited_)) & ~kEnd;
  if (ahead >= kEnd / 2) return ok_status();
  if (!queue_.credit(credited_ + ahead)) return lie();
  credited_ += ahead;
  return ok_status();
}

}  // namespace bf::transport::rdma
