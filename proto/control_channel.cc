#include "proto/control_channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <vector>

#include "proto/control.h"

namespace bf::control {

Status wait_for(int socket, short events, Deadline deadline) {
  for (;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) return {StatusCode::kTimeout, "the other end did not answer in time"};
    pollfd entry{socket, events, 0};
    int ready = ::poll(&entry, 1, int(std::min<long long>(left, 1 << 30)));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return errno_status("waiting for a socket", errno);
  }
}

bool control_header_ok(const FrameHeader& header, size_t max_payload_bytes) {
  return frame_header_ok(header) && header.opcode < uint16_t(Opcode::kFirstCall) &&
         header.body_bytes <= limits::kControlBodyBytes && header.payload_bytes <= max_payload_bytes;
}

Status SocketWire::send(std::span<const iovec> parts, Deadline deadline) {
  std::vector<iovec> left(parts.begin(), parts.end());
  msghdr message{};
  message.msg_iov = left.data();
  message.msg_iovlen = left.size();
  for (;;) {
    ssize_t sent = ::sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      BF_RETURN_IF_ERROR(wait_for(socket_, POLLOUT, deadline));
      continue;
    }
    if (sent < 0) return errno_status("sending to the other end", errno);
    while (message.msg_iovlen > 0 && size_t(sent) >= message.msg_iov->iov_len) {
      sent -= ssize_t(message.msg_iov->iov_len);
      message.msg_iov++;
      message.msg_iovlen--;
    }
    if (message.msg_iovlen == 0) return {};
    message.msg_iov->iov_base = static_cast<char*>(message.msg_iov->iov_base) + sent;
    message.msg_iov->iov_len -= size_t(sent);
  }
}

Status SocketWire::receive(void* data, size_t bytes, Deadline deadline) {
  auto* to = static_cast<char*>(data);
  while (bytes > 0) {
    ssize_t got = ::recv(socket_, to, bytes, MSG_DONTWAIT);
    if (got > 0) {
      to += got;
      bytes -= size_t(got);
    } else if (got == 0) {
      return {StatusCode::kUnavailable, "the other end closed the connection"};
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      BF_RETURN_IF_ERROR(wait_for(socket_, POLLIN, deadline));
    } else if (errno != EINTR) {
      return errno_status("receiving from the other end", errno);
    }
  }
  return {};
}

Status send_frame(Wire& wire, Opcode opcode, uint16_t flags, std::string_view body, std::string_view payload,
                  Deadline deadline) {
  FrameHeader header{uint32_t(body.size()), uint32_t(payload.size()), uint16_t(opcode), flags, 0};
  BF_CHECK(body.size() <= limits::kControlBodyBytes && payload.size() <= limits::kPayloadBytes);
  const iovec parts[3] = {{&header, sizeof header},
                          {const_cast<char*>(body.data()), body.size()},
                          {const_cast<char*>(payload.data()), payload.size()}};
  return wire.send(parts, deadline);
}

Result<FrameHeader> receive_header(Wire& wire, Deadline deadline) {
  FrameHeader header;
  BF_RETURN_IF_ERROR(wire.receive(&header, sizeof header, deadline));
  return header;
}

Result<Frame> receive_frame(Wire& wire, Deadline deadline, size_t max_payload_bytes) {
  auto header = receive_header(wire, deadline);
  if (!header.ok()) return header.status();
  if (!control_header_ok(*header, max_payload_bytes))
    return Status{StatusCode::kInvalid, "the other end does not speak Backfield's protocol"};
  Frame frame;
  frame.opcode = Opcode(header->opcode);
  frame.flags = header->flags;
  frame.body.resize(header->body_bytes);
  BF_RETURN_IF_ERROR(wire.receive(frame.body.data(), frame.body.size(), deadline));
  frame.payload.resize(header->payload_bytes);
  BF_RETURN_IF_ERROR(wire.receive(frame.payload.data(), frame.payload.size(), deadline));
  return frame;
}

Result<Frame> exchange(Wire& wire, Opcode opcode, std::string_view body, Deadline deadline, std::string_view payload) {
  BF_RETURN_IF_ERROR(send_frame(wire, opcode, 0, body, payload, deadline));
  auto frame = receive_frame(wire, deadline);
  if (!frame.ok()) return frame.status();
  if (frame->opcode == Opcode::kError) {
    auto error = decode_ErrorReply(as_bytes(frame->body));
    if (!error.ok()) return error.status();
    Status status = to_status(error->status, std::move(error->message));
    return status.ok() ? Status{StatusCode::kInvalid, "the server sent an error without a code"} : status;
  }
  if (!(frame->flags & kReply))
    return Status{StatusCode::kInvalid, "the server answered something else than it was asked"};
  return frame;
}

Result<std::string> round_trip(Wire& wire, Opcode opcode, std::string_view body, Deadline deadline) {
  auto frame = exchange(wire, opcode, body, deadline);
  if (!frame.ok()) return frame.status();
  if (frame->opcode != opcode || !frame->payload.empty())
    return Status{StatusCode::kInvalid, "the server answered something else than it was asked"};
  return std::move(frame->body);
}

}  // namespace bf::control
