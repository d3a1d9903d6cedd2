// Blocking exchange of control frames on a connected socket, for clients, tools and the worker's first words.
//
// Never reads a byte past the frame: the socket is handed on afterwards (to the session's transport). Safe for one sender
// and one receiver at a time.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "base/status.h"
#include "proto/frame.h"

namespace bf::control {

using Deadline = std::chrono::steady_clock::time_point;

inline Deadline deadline_in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

// A connected byte stream with deadlines: a socket, or TLS over one.
class Wire {
 public:
  virtual ~Wire() = default;
  // All of `parts`; kTimeout at the deadline (the stream is then broken), kUnavailable when the peer is gone.
  virtual Status send(std::span<const iovec> parts, Deadline deadline) = 0;
  // Exactly so many bytes, never one more; kUnavailable when the peer closes before.
  virtual Status receive(void* data, size_t bytes, Deadline deadline) = 0;
};

// Works on blocking and on non-blocking sockets; the descriptor stays the caller's.
class SocketWire final : public Wire {
 public:
  explicit SocketWire(int socket) : socket_(socket) {}
  Status send(std::span<const iovec> parts, Deadline deadline) override;
  Status receive(void* data, size_t bytes, Deadline deadline) override;

 private:
  const int socket_;
};

// Waits until the socket can go on (POLLIN, POLLOUT). Errors and hang-ups count as ready: the next call reports them.
Status wait_for(int socket, short events, Deadline deadline);

struct Frame {
  Opcode opcode{};
  uint16_t flags = 0;
  std::string body;
  std::string payload;
};

// True if a header is acceptable for a control frame: opcode below kFirstCall, body and payload within their bounds.
bool control_header_ok(const FrameHeader& header, size_t max_payload_bytes);

// Sends the whole frame. kTimeout at the deadline (the stream is then broken), kUnavailable when the peer is gone.
Status send_frame(Wire& wire, Opcode opcode, uint16_t flags, std::string_view body, std::string_view payload,
                  Deadline deadline);

// Receives one frame. kInvalid for a header out of bounds; kUnavailable when the peer closes before the frame is whole.
Result<Frame> receive_frame(Wire& wire, Deadline deadline, size_t max_payload_bytes = limits::kPayloadBytes);

// For streams of payload (netperf): the header alone, not checked; then its body and payload with Wire::receive().
Result<FrameHeader> receive_header(Wire& wire, Deadline deadline);

// Sends a request and returns the reply, whatever its opcode. A kError frame becomes its Status.
Result<Frame> exchange(Wire& wire, Opcode opcode, std::string_view body, Deadline deadline, std::string_view payload = {});
// The same for a reply that has the request's opcode and no payload: returns its body. kInvalid for any other.
Result<std::string> round_trip(Wire& wire, Opcode opcode, std::string_view body, Deadline deadline);

// The same on a socket.
inline Status send_frame(int socket, Opcode opcode, uint16_t flags, std::string_view body, std::string_view payload,
                         Deadline deadline) {
  SocketWire wire(socket);
  return send_frame(wire, opcode, flags, body, payload, deadline);
}
inline Result<Frame> receive_frame(int socket, Deadline deadline, size_t max_payload_bytes = limits::kPayloadBytes) {
  SocketWire wire(socket);
  return receive_frame(wire, deadline, max_payload_bytes);
}
inline Status receive_exactly(int socket, void* data, size_t bytes, Deadline deadline) {
  return SocketWire(socket).receive(data, bytes, deadline);
}
inline Result<Frame> exchange(int socket, Opcode opcode, std::string_view body, Deadline deadline) {
  SocketWire wire(socket);
  return exchange(wire, opcode, body, deadline);
}
inline Result<std::string> round_trip(int socket, Opcode opcode, std::string_view body, Deadline deadline) {
  SocketWire wire(socket);
  return round_trip(wire, opcode, body, deadline);
}

}  // namespace bf::control
