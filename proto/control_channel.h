// Blocking exchange of control frames on a connected socket, for clients, tools and the worker's first words.
//
// Never reads a byte past the frame: the socket is handed on afterwards (to the session's transport). Works on blocking
// and on non-blocking sockets. Safe for one sender and one receiver at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "base/status.h"
#include "proto/frame.h"

namespace bf::control {

using Deadline = std::chrono::steady_clock::time_point;

inline Deadline deadline_in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

struct Frame {
  Opcode opcode{};
  uint16_t flags = 0;
  std::string body;
  std::string payload;
};

// True if a header is acceptable for a control frame: opcode below kFirstCall, body and payload within their bounds.
bool control_header_ok(const FrameHeader& header, size_t max_payload_bytes);

// Sends the whole frame. kTimeout at the deadline (the stream is then broken), kUnavailable when the peer is gone.
Status send_frame(int socket, Opcode opcode, uint16_t flags, std::string_view body, std::string_view payload,
                  Deadline deadline);

// Receives one frame. kInvalid for a header out of bounds; kUnavailable when the peer closes before the frame is whole.
Result<Frame> receive_frame(int socket, Deadline deadline, size_t max_payload_bytes = limits::kPayloadBytes);

// For streams of payload (netperf): the header alone, not checked; then its body and payload with receive_exactly.
Result<FrameHeader> receive_header(int socket, Deadline deadline);
Status receive_exactly(int socket, void* data, size_t bytes, Deadline deadline);

// Sends a request and returns the body of its reply. A kError frame becomes its Status; any other frame is kInvalid.
Result<std::string> round_trip(int socket, Opcode opcode, std::string_view body, Deadline deadline);

}  // namespace bf::control
