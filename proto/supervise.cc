#include "proto/supervise.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

namespace bf::supervise {
namespace {

using Clock = std::chrono::steady_clock;

union ControlBuffer {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int) * kDescriptors)];
};

// Takes ownership of every descriptor that came, whatever else is wrong with the message.
std::vector<Fd> collect_fds(msghdr& message) {
  std::vector<Fd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

Result<Message> receive_until(int socket, const Clock::time_point* deadline) {
  std::string buffer(kDatagramBytes, '\0');
  for (;;) {
    iovec part{buffer.data(), buffer.size()};
    ControlBuffer control;
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    ssize_t got = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      int wait_ms = -1;
      if (deadline != nullptr) {
        auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now()).count();
        if (left <= 0) return Status{StatusCode::kTimeout, "no message came in time"};
        wait_ms = int(std::min<long long>(left, 1 << 30));
      }
      pollfd entry{socket, POLLIN, 0};
      if (::poll(&entry, 1, wait_ms) < 0 && errno != EINTR) return errno_status("waiting for a message", errno);
      continue;
    }
    if (got < 0) return errno_status("receiving a message", errno);
    if (got == 0) return Status{StatusCode::kUnavailable, "the other process closed its end"};
    Message result;
    result.fds = collect_fds(message);
    uint32_t kind;
    if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || size_t(got) < sizeof kind)
      return Status{StatusCode::kInvalid, "a message from the other process is malformed"};
    memcpy(&kind, buffer.data(), sizeof kind);
    if (kind < uint32_t(Kind::kAssign) || kind > uint32_t(Kind::kReading))
      return Status{StatusCode::kInvalid, "a message from the other process is of an unknown kind"};
    result.kind = Kind(kind);
    result.body.assign(buffer, sizeof kind, size_t(got) - sizeof kind);
    return result;
  }
}

}  // namespace

Result<std::pair<Fd, Fd>> make_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
    return errno_status("making a socket pair", errno);
  return std::pair<Fd, Fd>(Fd(ends[0]), Fd(ends[1]));
}

Status send(int socket, Kind kind, const std::string& body, std::span<const int> fds) {
  BF_CHECK(fds.size() <= kDescriptors && sizeof kind + body.size() <= kDatagramBytes);
  iovec parts[2] = {{&kind, sizeof kind}, {const_cast<char*>(body.data()), body.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  ControlBuffer control;
  if (!fds.empty()) {
    memset(&control, 0, sizeof control);
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  for (;;) {
    if (::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
      return {StatusCode::kExhausted, "the other process does not read its messages"};
    return errno_status("sending a message to the other process", errno);
  }
}

Result<Message> receive(int socket, Clock::time_point deadline) { return receive_until(socket, &deadline); }
Result<Message> receive(int socket) { return receive_until(socket, nullptr); }

}  // namespace bf::supervise
