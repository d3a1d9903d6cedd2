// The smallest client: one link, lanes by thread, replies, tickets and host functions. The generated encoders call it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "api/remote.h"
#include "proto/control.h"
#include "proto/frame.h"
#include "transport/transport.h"

namespace bf::test {

inline constexpr uint64_t kMiB = 1 << 20;

class TestClient final : public transport::BulkSink {
 public:
  explicit TestClient(transport::Link& link);
  ~TestClient();
  // Threads that call remote_F and post_F use this client from here on.
  void use();

  uint64_t ticket(void* destination, size_t bytes);
  // Sends `data` as a bulk transfer and returns its id; to be followed by the frame that names it.
  uint64_t transfer(const void* data, size_t bytes);
  // The same in two steps: the frame may be sent between them.
  uint64_t name_transfer();
  void send_transfer(uint64_t transfer, const void* data, size_t bytes);
  void on_host_function(std::function<void(uint64_t)> function) { host_function_ = std::move(function); }
  bool send_raw(const FrameHeader& header, std::string_view body);

  bool wait_lost();
  std::vector<control::AsyncErrorNotice> async_errors();
  bool ticket_landed(uint64_t ticket);
  // From here on blocks that come do not land until let_land(); await_held() returns when one has come.
  void hold_blocks();
  void await_held();
  void let_land();

  // What the generated code asks (proto/api/call_channel.h).
  CUresult call(uint16_t opcode, uint16_t flags, std::span<const std::byte> body, const client::Payload& payload,
                bool wait, client::Reply* reply);

  std::byte* place(const transport::Block& block) noexcept override;
  bool landed(const transport::Block& block, std::byte* data) noexcept override;
  void lost(const Status& why) noexcept override;

 private:
  struct Ticket {
    std::byte* data;
    size_t bytes, missing;
  };
  void read_loop();
  void side_loop();
  void dispatch(const FrameHeader& header, std::span<const std::byte> body, std::span<const std::byte> payload);
  bool land(uint64_t ticket, uint64_t offset, std::span<const std::byte> bytes);

  transport::Link& link_;
  std::mutex send_mutex_, mutex_;
  std::condition_variable changed_;
  std::map<uint32_t, std::vector<std::byte>> replies_;  // lane -> body, then payload
  std::map<uint32_t, size_t> reply_body_;
  std::map<uint64_t, Ticket> tickets_;
  std::vector<control::AsyncErrorNotice> errors_;
  uint64_t next_ticket_ = 1, next_transfer_ = 1, blocks_ = 0, data_frames_ = 0;
  std::function<void(uint64_t)> host_function_;
  bool lost_ = false, holds_ = false, held_ = false;
  std::thread reader_, side_;
};

}  // namespace bf::test
