// A connection that speaks control frames to bfserver: everything before a session.
//
// Reads one frame at a time and never a byte past it, because an attaching client's socket is handed to its worker.
// While a reply is being sent nothing is read, so what one connection can occupy is bounded by one frame. Each event
// moves at most kBudgetBytes. Owned by its Owner; lives on the event loop's thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/fd.h"
#include "proto/control_channel.h"
#include "server/daemon/event_loop.h"
#include "server/daemon/identity.h"
#include "transport/tls.h"

namespace bf::daemon {

// The user at the other end of a Unix socket.
std::optional<uid_t> peer_uid(int socket);

class Connection {
 public:
  static constexpr size_t kBudgetBytes = 256 << 10;
  static constexpr uint64_t kStreamBytes = uint64_t{1} << 30;  // most bytes of one bandwidth reply

  class Owner {
   public:
    virtual ~Owner() = default;
    // A whole frame; the payload of kBandwidth is already dropped. Called again only after the replies were sent.
    virtual void on_frame(Connection& connection, control::Frame frame) = 0;
    // The peer left, broke the protocol or could not be sent to. Not called for close() and detach().
    virtual void on_lost(Connection& connection, const Status& why) = 0;
  };

  // With a certificate, a peer that begins with a TLS handshake gets one; others stay plain, as the processes do that
  // are going to attach.
  Connection(EventLoop& loop, Fd socket, uint64_t id, bool local,
             std::shared_ptr<transport::Tls::Certificate> certificate, Owner& owner);
  ~Connection();
  Connection(const Connection&) = delete;

  Status start();

  uint64_t id() const { return id_; }
  bool local() const { return local_; }  // came over the Unix socket
  bool encrypted() const { return tls_ != nullptr; }
  bool loopback() const;                 // the bytes never leave this machine
  const std::string& peer() const { return peer_; }
  uid_t peer_uid() const { return daemon::peer_uid(socket_.get()).value_or(uid_t(-1)); }
  Identity& identity() { return identity_; }
  bool busy() const { return held_ || sending(); }  // with an earlier request

  void reply(Opcode opcode, std::string body, std::string payload = {});
  // Payload frames of together `bytes` zero bytes (one empty frame if 0).
  void reply_zeroes(Opcode opcode, uint64_t bytes);
  // A frame that does not answer the last request. One that would have to wait, because the peer takes none, is dropped.
  void tell(Opcode opcode, uint16_t flags, std::string body);
  // Sends a last frame (flags as given); lost() follows once it has left.
  void reply_and_close(Opcode opcode, uint16_t flags, std::string body);

  // Nothing is read until release(): the answer to the last request is still being made.
  void hold();
  void release() { held_ = false; }

  // Takes the socket away, in blocking mode; the connection is dead afterwards.
  Fd detach();
  void close();

  // A connection that keeps a lease may be silent; others must speak within limits::kHandshakeTimeoutMs.
  void keep(bool kept = true) { kept_ = kept; }
  bool kept() const { return kept_; }
  bool overdue(EventLoop::Clock::time_point now) const;
  EventLoop::Clock::time_point last_progress() const { return last_progress_; }

 private:
  enum class Stage { kHeader, kBody, kPayload };
  void on_events(uint32_t events);
  bool recognise();  // plain or TLS; false: nothing to read yet, or it is over
  void read_some();
  void read_plain();
  void read_encrypted();
  // Where the next bytes of the frame belong; `sink` takes those nobody wants.
  std::span<char> wanted(std::span<char> sink);
  bool step(size_t bytes);  // `bytes` arrived; true when a frame was delivered
  void deliver();
  void write_some();
  bool send_some(size_t& budget);  // false: the socket takes no more for now, or it is over
  bool sending() const { return !out_.empty() || zeroes_ > 0 || stream_ > 0 || !cipher_.empty(); }
  void update_interest();
  void lose(const Status& why);

  EventLoop& loop_;
  Fd socket_;
  const uint64_t id_;
  const bool local_;
  Owner& owner_;
  std::string peer_;
  Identity identity_;
  bool kept_ = false;
  bool closing_ = false;
  bool held_ = false;
  uint32_t interest_ = 0;
  EventLoop::Clock::time_point last_progress_;

  Stage stage_ = Stage::kHeader;
  size_t have_ = 0;  // bytes of the stage
  FrameHeader header_;
  std::string body_;
  std::string payload_;

  std::string out_;
  size_t out_sent_ = 0;
  size_t zeroes_ = 0;    // of the current payload frame, still to send
  uint64_t stream_ = 0;  // of later payload frames
  Opcode stream_opcode_{};

  std::shared_ptr<transport::Tls::Certificate> certificate_;  // until it is known what the peer speaks
  std::unique_ptr<transport::Tls> tls_;
  bool shaken_ = false;  // hands
  std::string raw_;      // as it came; what the engine has not taken yet lies here
  std::string cipher_;   // to be sent
};

}  // namespace bf::daemon
