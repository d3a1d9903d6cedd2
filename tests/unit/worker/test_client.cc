#include "tests/unit/worker/test_client.h"

#include <cstring>

#include "proto/api/wire.h"
#include "proto/session.h"

namespace bf::test {
namespace {

std::atomic<TestClient*> g_client{nullptr};
std::atomic<uint32_t> g_lanes{0};
std::atomic<uint32_t> g_handles{0};
thread_local uint32_t t_lane = g_lanes++;
thread_local std::vector<std::byte> t_body, t_reply;

}  // namespace

TestClient::TestClient(transport::Link& link) : link_(link) {
  link_.bulk().start(*this);
  reader_ = std::thread([this] { read_loop(); });
  side_ = std::thread([this] { side_loop(); });
}

TestClient::~TestClient() {
  link_.shut();
  reader_.join();
  side_.join();
  link_.bulk().stop();
}

void TestClient::use() { g_client = this; }

uint64_t TestClient::ticket(void* destination, size_t bytes) {
  std::lock_guard guard(mutex_);
  tickets_[next_ticket_] = {static_cast<std::byte*>(destination), bytes, bytes};
  return next_ticket_++;
}

uint64_t TestClient::transfer(const void* data, size_t bytes) {
  const uint64_t transfer = name_transfer();
  send_transfer(transfer, data, bytes);
  return transfer;
}

uint64_t TestClient::name_transfer() {
  std::lock_guard guard(mutex_);
  return next_transfer_++;
}

void TestClient::send_transfer(uint64_t transfer, const void* data, size_t bytes) {
  link_.bulk().send(transfer, data, bytes, [](const Status&) {});
}

bool TestClient::send_raw(const FrameHeader& header, std::string_view body) {
  const iovec parts[] = {{const_cast<FrameHeader*>(&header), sizeof(header)},
                         {const_cast<char*>(body.data()), body.size()}};
  std::lock_guard guard(send_mutex_);
  return link_.calls().send(std::span(parts, body.empty() ? 1 : 2)).ok();
}

bool TestClient::wait_lost() {
  std::unique_lock guard(mutex_);
  return changed_.wait_for(guard, std::chrono::seconds(10), [&] { return lost_; });
}

std::vector<control::AsyncErrorNotice> TestClient::async_errors() {
  std::lock_guard guard(mutex_);
  return errors_;
}

bool TestClient::ticket_landed(uint64_t ticket) {
  std::lock_guard guard(mutex_);
  return tickets_.at(ticket).missing == 0;
}

void TestClient::hold_blocks() {
  std::lock_guard guard(mutex_);
  holds_ = true;
}

void TestClient::await_held() {
  std::unique_lock guard(mutex_);
  changed_.wait(guard, [&] { return held_ || lost_; });
}

void TestClient::let_land() {
  std::lock_guard guard(mutex_);
  holds_ = false;
  changed_.notify_all();
}

CUresult TestClient::call(uint16_t opcode, uint16_t flags, std::span<const std::byte> body,
                          const client::Payload& payload, bool wait, client::Reply* reply) {
  const FrameHeader header{uint32_t(body.size()), uint32_t(payload.bytes), opcode, flags, t_lane};
  std::vector<iovec> parts{{const_cast<FrameHeader*>(&header), sizeof(header)},
                           {const_cast<std::byte*>(body.data()), body.size()}};
  parts.insert(parts.end(), payload.parts, payload.parts + payload.count);
  std::erase_if(parts, [](const iovec& part) { return part.iov_len == 0; });
  {
    std::lock_guard guard(send_mutex_);
    if (!link_.calls().send(parts).ok()) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  }
  if (!wait) return CUDA_SUCCESS;
  std::unique_lock guard(mutex_);
  changed_.wait(guard, [&] { return lost_ || replies_.contains(t_lane); });
  if (!replies_.contains(t_lane)) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  t_reply = std::move(replies_[t_lane]);
  replies_.erase(t_lane);
  const std::span<const std::byte> all(t_reply);
  wire::ReplyHead head;
  if (!wire::read_reply_head(all.first(reply_body_[t_lane]), head, reply->outs)) return CUDA_ERROR_UNKNOWN;
  reply->result = CUresult(head.result);
  reply->payload = all.subspan(reply_body_[t_lane]);
  changed_.wait(guard, [&] { return lost_ || blocks_ >= head.watermark; });
  return CUDA_SUCCESS;
}

void TestClient::read_loop() {
  std::vector<std::byte> buffer(32 << 20);
  size_t used = 0;
  for (;;) {
    auto received = link_.calls().receive(std::span(buffer).subspan(used));
    if (!received.ok() || *received == 0) return lost({});
    used += *received;
    size_t at = 0;
    while (used - at >= sizeof(FrameHeader)) {
      FrameHeader header;
      std::memcpy(&header, buffer.data() + at, sizeof(header));
      const size_t bytes = sizeof(header) + header.body_bytes + header.payload_bytes;
      if (used - at < bytes) break;
      const std::span<const std::byte> all(buffer.data() + at + sizeof(header), bytes - sizeof(header));
      dispatch(header, all.first(header.body_bytes), all.subspan(header.body_bytes));
      at += bytes;
    }
    std::memmove(buffer.data(), buffer.data() + at, used - at);
    used -= at;
  }
}

void TestClient::dispatch(const FrameHeader& header, std::span<const std::byte> body,
                          std::span<const std::byte> payload) {
  std::lock_guard guard(mutex_);
  if (header.flags & kReply) {
    auto& reply = replies_[header.lane];
    reply.assign(body.begin(), body.end());
    reply.insert(reply.end(), payload.begin(), payload.end());
    reply_body_[header.lane] = body.size();
  } else if (header.opcode == uint16_t(Opcode::kData)) {
    auto notice = control::decode_DataNotice(body);
    if (notice.ok()) land(notice->ticket, notice->offset, payload);
    ++data_frames_;
  } else if (header.opcode == uint16_t(Opcode::kAsyncError)) {
    auto notice = control::decode_AsyncErrorNotice(body);
    if (notice.ok()) errors_.push_back(*notice);
  }
  changed_.notify_all();
}

bool TestClient::land(uint64_t ticket, uint64_t offset, std::span<const std::byte> bytes) {
  const auto found = tickets_.find(ticket);
  if (found == tickets_.end() || offset > found->second.bytes || bytes.size() > found->second.bytes - offset)
    return false;
  std::memcpy(found->second.data + offset, bytes.data(), bytes.size());
  found->second.missing -= bytes.size();
  return true;
}

void TestClient::side_loop() {
  std::vector<std::byte> buffer(1 << 16);
  size_t used = 0;
  for (;;) {
    auto received = link_.side().receive(std::span(buffer).subspan(used));
    if (!received.ok() || *received == 0) return;
    used += *received;
    FrameHeader header;
    while (used >= sizeof(header)) {
      std::memcpy(&header, buffer.data(), sizeof(header));
      const size_t bytes = sizeof(header) + header.body_bytes;
      if (used < bytes) break;
      auto notice = control::decode_CallbackNotice({buffer.data() + sizeof(header), header.body_bytes});
      std::memmove(buffer.data(), buffer.data() + bytes, used - bytes);
      used -= bytes;
      if (!notice.ok()) return;
      {
        std::unique_lock guard(mutex_);
        changed_.wait(guard,
                      [&] { return lost_ || (blocks_ >= notice->watermark && data_frames_ >= notice->data_frames); });
      }
      if (host_function_) host_function_(notice->id);
      control::CallbackNotice done;
      done.id = notice->id;
      const std::string body = control::encode_CallbackNotice(done);
      FrameHeader answer{uint32_t(body.size()), 0, uint16_t(Opcode::kCallbackDone), 0, 0};
      const iovec parts[] = {{&answer, sizeof(answer)}, {const_cast<char*>(body.data()), body.size()}};
      if (!link_.side().send(parts).ok()) return;
    }
  }
}

std::byte* TestClient::place(const transport::Block&) noexcept { return nullptr; }

bool TestClient::landed(const transport::Block& block, std::byte* data) noexcept {
  bool good;
  {
    std::unique_lock guard(mutex_);
    held_ = held_ || holds_;
    changed_.notify_all();
    changed_.wait(guard, [&] { return !holds_ || lost_; });
    good = land(ticket_of_transfer(block.transfer), offset_of_transfer(block.transfer) + block.offset,
                {data, block.bytes});
  }
  link_.bulk().release(block);
  std::lock_guard guard(mutex_);
  ++blocks_;
  changed_.notify_all();
  return good;
}

void TestClient::lost(const Status&) noexcept {
  std::lock_guard guard(mutex_);
  lost_ = true;
  changed_.notify_all();
}

}  // namespace bf::test

namespace bf::client {

CUresult begin(size_t body_bound, std::byte*& body) noexcept {
  if (test::t_body.size() < body_bound) test::t_body.resize(body_bound);
  body = test::t_body.data();
  return CUDA_SUCCESS;
}

CUresult finish_post(uint16_t opcode, uint16_t flags, size_t body_bytes, const Payload& payload) noexcept {
  return test::g_client.load()->call(opcode, flags, std::span(test::t_body).first(body_bytes), payload, false, nullptr);
}

CUresult finish_call(uint16_t opcode, uint16_t flags, size_t body_bytes, const Payload& payload,
                     Reply& reply) noexcept {
  return test::g_client.load()->call(opcode, flags, std::span(test::t_body).first(body_bytes), payload, true, &reply);
}

CUresult malformed_reply(const char*) noexcept { return CUDA_ERROR_UNKNOWN; }

uint64_t make_handle(HandleKind kind) noexcept {
  return Handle{kind, HandleMaker::kClient, 0, test::g_handles++}.pack();
}

void drop_handle(uint64_t) noexcept {}

}  // namespace bf::client
