// A worker that the test plays: it answers every call with success unless told otherwise, and remembers what came.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "proto/frame.h"
#include "proto/session.h"
#include "transport/transport.h"

namespace bf::client {

// From proto/api/opcodes.lock.
uint16_t opcode_of(const std::string& call);

// A reply body: the result, then out fields.
class Answer {
 public:
  explicit Answer(uint32_t result = 0, uint64_t watermark = 0);
  Answer& number(uint32_t field, uint64_t value);
  Answer& fixed64(uint32_t field, uint64_t value);
  Answer& bytes(uint32_t field, const std::string& value);
  const std::string& body() const { return body_; }

 private:
  std::string body_;
};

class FakeWorker final : public transport::BulkSink {
 public:
  struct Seen {
    FrameHeader header;
    std::string body, payload;
  };
  using Handler = std::function<Answer(const Seen&)>;

  // Makes the link factory give the other end to the session.
  FakeWorker();
  ~FakeWorker() override;

  // The answer to a call, instead of success. Runs on the worker's thread before the reply goes out.
  void on(const std::string& call, Handler handler);
  // How often the call came / everything that came, in order.
  int count(const std::string& call);
  std::vector<Seen> seen();
  // Frames that nobody asked for.
  void notice(Opcode opcode, const std::string& body, const std::string& payload = "");
  void side(const std::string& callback_body);
  // Bodies of kCallbackDone, waiting for `count` of them.
  bool wait_callbacks_done(size_t count);
  void cut() { link_->shut(); }
  transport::Link& link() { return *link_; }

  static SessionSnapshot snapshot();

  std::byte* place(const transport::Block&) noexcept override { return nullptr; }
  bool landed(const transport::Block& block, std::byte* data) noexcept override;
  void lost(const Status&) noexcept override {}
  // Waits until the bulk transfer has brought these bytes.
  bool wait_transfer(uint64_t id, const std::string& bytes);

 private:
  void run();
  void run_side();
  void send(const FrameHeader& header, const std::string& body, const std::string& payload);

  std::unique_ptr<transport::Link> link_;
  std::mutex mutex_, send_mutex_;
  std::map<uint16_t, Handler> handlers_;
  std::vector<Seen> seen_;
  std::map<uint64_t, std::string> transfers_;
  size_t callbacks_done_ = 0;
  std::thread thread_, side_thread_;
};

}  // namespace bf::client
