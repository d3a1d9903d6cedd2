#include "transport/rdma_queue.h"

#include <fcntl.h>
#include <poll.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace bf::transport::rdma {

bool Fate::end(const Status& why) {
  std::lock_guard lock(mutex_);
  if (gone()) return false;
  why_ = why;
  gone_.store(true, std::memory_order_release);
  return true;
}

Status Fate::why() const {
  std::lock_guard lock(mutex_);
  return why_;
}

Result<std::unique_ptr<Completions>> Completions::make(ibv_context* context, int entries) {
  std::unique_ptr<Completions> made(new Completions);
  made->channel_ = loaded_verbs().ibv_create_comp_channel(context);
  if (!made->channel_) return errno_status("the RDMA device gives no completion channel", errno);
  fcntl(made->channel_->fd, F_SETFL, fcntl(made->channel_->fd, F_GETFL) | O_NONBLOCK);
  made->cq_ = loaded_verbs().ibv_create_cq(context, entries, nullptr, made->channel_, 0);
  if (!made->cq_) return errno_status("the RDMA device gives no completion queue", errno);
  return made;
}

Completions::~Completions() {
  if (cq_) loaded_verbs().ibv_destroy_cq(cq_);
  if (channel_) loaded_verbs().ibv_destroy_comp_channel(channel_);
}

void Completions::drain() {
  ibv_cq* queue;
  void* context;
  unsigned events = 0;
  while (loaded_verbs().ibv_get_cq_event(channel_, &queue, &context) == 0) events++;
  if (events > 0) loaded_verbs().ibv_ack_cq_events(cq_, events);
}

void Completions::sleep(const Wake& wake, int most_ms) const {
  pollfd entries[2] = {{fd(), POLLIN, 0}, {wake.fd(), POLLIN, 0}};
  ::poll(entries, 2, most_ms);
}

Connection::~Connection() {
  if (rdma_cm_id* id = dismantle()) loaded_verbs().rdma_destroy_id(id);
}

rdma_cm_id* Connection::dismantle() noexcept {
  if (id_ && id_->qp) loaded_verbs().rdma_destroy_qp(id_);
  sends_.reset();
  receives_.reset();
  return std::exchange(id_, nullptr);
}

Status Connection::make_queue_pair(ibv_pd* pd, const QueueShape& shape) {
  auto sends = Completions::make(id_->verbs, int(shape.sends));
  if (!sends.ok()) return sends.status();
  auto receives = Completions::make(id_->verbs, int(shape.receives));
  if (!receives.ok()) return receives.status();
  sends_ = std::move(*sends);
  receives_ = std::move(*receives);
  // Devices differ in how much they take inline; a launch should fit, a bulk header must not need to.
  for (uint32_t inline_bytes : {shape.inline_bytes, 64u, 0u}) {
    ibv_qp_init_attr attributes{};
    attributes.send_cq = sends_->queue();
    attributes.recv_cq = receives_->queue();
    attributes.cap = {shape.sends, shape.receives, 1, 1, inline_bytes};
    attributes.qp_type = IBV_QPT_RC;
    if (loaded_verbs().rdma_create_qp(id_, pd, &attributes) == 0) {
      inline_bytes_ = std::min(attributes.cap.max_inline_data, shape.inline_bytes);
      return ok_status();
    }
  }
  return errno_status("the RDMA device gives no queue pair", errno);
}

Status Connection::post(ibv_send_wr& request) {
  ibv_send_wr* bad;
  int error = ibv_post_send(id_->qp, &request, &bad);
  return error == 0 ? ok_status() : errno_status("the RDMA device takes no further send", error);
}

Status Connection::post(ibv_recv_wr& request) {
  ibv_recv_wr* bad;
  int error = ibv_post_recv(id_->qp, &request, &bad);
  return error == 0 ? ok_status() : errno_status("the RDMA device takes no further receive", error);
}

void Connection::disconnect() noexcept {
  if (id_->qp) loaded_verbs().rdma_disconnect(id_);
}

void Connection::break_queue_pair() noexcept {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_ERR;
  if (id_->qp) loaded_verbs().ibv_modify_qp(id_->qp, &attributes, IBV_QP_STATE);
}

Status completion_error(const ibv_wc& completion) {
  switch (completion.status) {
    case IBV_WC_WR_FLUSH_ERR:
      return {StatusCode::kUnavailable, "the RDMA connection was closed"};
    case IBV_WC_RETRY_EXC_ERR:
      return {StatusCode::kInternal, "the peer's RDMA device no longer answers (retries exceeded): the network is down, or the peer is"};
    case IBV_WC_RNR_RETRY_EXC_ERR:
      return {StatusCode::kInternal, "the peer took no RDMA message for too long"};
    case IBV_WC_REM_ACCESS_ERR:
      return {StatusCode::kInternal, "the peer's RDMA device refused access to its memory"};
    default:
      return {StatusCode::kInternal,
              std::string("the RDMA queue pair failed: ") + loaded_verbs().ibv_wc_status_str(completion.status)};
  }
}

}  // namespace bf::transport::rdma
