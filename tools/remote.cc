#include "tools/remote.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "transport/tls.h"

namespace bf::tools {
namespace {

// A server whose host lost power says nothing; keep-alive finds out within 25 s.
void keep_alive(int socket) {
  int on = 1, idle_s = 10, interval_s = 5, probes = 3;
  ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

class TlsWire final : public control::Wire {
 public:
  TlsWire(int socket, std::unique_ptr<transport::Tls> tls) : socket_(socket), tls_(std::move(tls)) {}

  Status handshake(control::Deadline deadline) {
    for (;;) {
      auto done = tls_->handshake();
      Status sent = flush(deadline);
      if (!done.ok()) return done.status();
      if (!sent.ok()) return sent;
      if (*done) return {};
      BF_RETURN_IF_ERROR(fetch(deadline));
    }
  }

  Status send(std::span<const iovec> parts, control::Deadline deadline) override {
    BF_RETURN_IF_ERROR(tls_->write(parts));
    return flush(deadline);
  }

  Status receive(void* data, size_t bytes, control::Deadline deadline) override {
    auto to = std::span(static_cast<std::byte*>(data), bytes);
    while (!to.empty()) {
      auto got = tls_->read(to);
      if (!got.ok()) return got.status();
      to = to.subspan(*got);
      if (*got == 0) BF_RETURN_IF_ERROR(fetch(deadline));
    }
    return {};
  }

 private:
  Status flush(control::Deadline deadline) {
    std::string out = std::exchange(tls_->out(), {});
    iovec part{out.data(), out.size()};
    return out.empty() ? ok_status() : control::SocketWire(socket_).send(std::span(&part, 1), deadline);
  }

  Status fetch(control::Deadline deadline) {
    for (;;) {
      ssize_t got = ::recv(socket_, raw_, sizeof raw_, MSG_DONTWAIT);
      if (got > 0) return tls_->feed(std::as_bytes(std::span(raw_, size_t(got)))), ok_status();
      if (got == 0) return {StatusCode::kUnavailable, "the other end closed the connection"};
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        BF_RETURN_IF_ERROR(control::wait_for(socket_, POLLIN, deadline));
      } else if (errno != EINTR) {
        return errno_status("receiving from the other end", errno);
      }
    }
  }

  const int socket_;
  std::unique_ptr<transport::Tls> tls_;
  char raw_[16 << 10];
};

Result<std::unique_ptr<control::Wire>> secure(int socket, const std::string& pin, control::Deadline deadline) {
  auto tls = transport::Tls::with_pin(pin);
  if (!tls.ok()) return tls.status();
  auto wire = std::make_unique<TlsWire>(socket, std::move(*tls));
  BF_RETURN_IF_ERROR(wire->handshake(deadline));
  return std::unique_ptr<control::Wire>(std::move(wire));
}

// A server started with --dev speaks no TLS. On this very machine it may be believed without, if it is run by this user
// or by root; anybody else could have taken its port.
bool is_own_dev_server(const transport::Address& server, const Status& why) {
  bool loopback = server.host == "localhost" || server.host == "::1" || server.host.starts_with("127.");
  if (why.code() == StatusCode::kDenied || !loopback) return false;
  transport::Address local;
  local.unix_name = "backfield." + std::to_string(server.port);
  auto socket = transport::dial(local, std::chrono::milliseconds(1000));
  if (!socket.ok()) return false;
  ucred peer{};
  socklen_t bytes = sizeof peer;
  return ::getsockopt(socket->get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
         (peer.uid == 0 || peer.uid == ::geteuid());
}

// Text on the wire is made to fit, which is good enough for what people read, and wrong for what a command means.
Status check_words(const std::vector<std::string>& words) {
  for (auto& word : words) {
    auto arrives = control::decode_ManageRequest(control::as_bytes(control::encode_ManageRequest({{word}})));
    if (!arrives.ok() || arrives->words != std::vector{word})
      return {StatusCode::kInvalid, "'" + printable(word.substr(0, 40)) + "...' is no word for a command: it may have " +
                                        std::to_string(control::kNameBytes) + " bytes, in UTF-8"};
  }
  return {};
}

}  // namespace

Status Remote::authenticate(const Token& token, control::Deadline deadline) {
  control::AuthRequest request{token.id, token.secret, uint64_t(::time(nullptr))};
  auto body = ask(Opcode::kAuthenticate, control::encode_AuthRequest(request), deadline);
  if (!body.ok()) return body.status();
  auto reply = control::decode_AuthReply(control::as_bytes(*body));
  if (!reply.ok()) return reply.status();
  return control::to_status(reply->status, printable(reply->message));
}

Result<std::unique_ptr<Remote>> Remote::open(const transport::Address& server, control::Deadline deadline) {
  auto dial = [&] {
    auto socket = transport::dial(server, std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()));
    if (socket.ok() && server.unix_name.empty()) keep_alive(socket->get());
    return socket;
  };
  auto plain = [&](Fd socket) {
    const int fd = socket.get();
    return std::unique_ptr<Remote>(new Remote(server, std::move(socket), std::make_unique<control::SocketWire>(fd)));
  };
  auto named = [&](const Status& why) { return Status{why.code(), server.to_string() + ": " + why.message()}; };
  auto socket = dial();
  if (!socket.ok()) return socket.status();
  if (!server.unix_name.empty()) return plain(std::move(*socket));
  auto token = find_token();
  if (!token.ok()) return token.status();
  if (!*token) return plain(std::move(*socket));
  auto wire = secure(socket->get(), (*token)->pin, deadline);
  if (!wire.ok()) {
    if (!is_own_dev_server(server, wire.status())) return named(wire.status());
    socket = dial();
    if (!socket.ok()) return socket.status();
    return plain(std::move(*socket));
  }
  std::unique_ptr<Remote> remote(new Remote(server, std::move(*socket), std::move(*wire)));
  if (Status known = remote->authenticate(**token, deadline); !known.ok()) return named(known);
  return remote;
}

Result<std::string> Remote::ask(Opcode opcode, std::string_view body, control::Deadline deadline) {
  return control::round_trip(*wire_, opcode, body, deadline);
}

Result<std::string> Remote::manage(const std::vector<std::string>& words, control::Deadline deadline, std::string_view file) {
  BF_RETURN_IF_ERROR(check_words(words));
  auto frame = control::exchange(*wire_, Opcode::kManage, control::encode_ManageRequest({words}), deadline, file);
  if (!frame.ok()) return frame.status();
  if (frame->opcode != Opcode::kManage)
    return Status{StatusCode::kInvalid, "the server answered something else than it was asked"};
  auto reply = control::decode_ManageReply(control::as_bytes(frame->body));
  if (!reply.ok()) return reply.status();
  if (reply->status != 0) return control::to_status(reply->status, printable(reply->message));
  return std::move(frame->payload);
}

// Byte by byte, because only that can never stop in the middle of a read; what comes unasked is rare and short.
Result<std::optional<control::Frame>> Remote::overhear() {
  for (;;) {
    FrameHeader header;
    if (overheard_.size() >= sizeof header) {
      std::memcpy(&header, overheard_.data(), sizeof header);
      if (!control::control_header_ok(header, 0))
        return Status{StatusCode::kInvalid, "the other end does not speak Backfield's protocol"};
      if (overheard_.size() == sizeof header + header.body_bytes) {
        control::Frame frame{Opcode(header.opcode), header.flags, overheard_.substr(sizeof header), {}};
        overheard_.clear();
        return std::optional(std::move(frame));
      }
    }
    char byte;
    Status got = wire_->receive(&byte, 1, control::Deadline());
    if (got.code() == StatusCode::kTimeout) return std::optional<control::Frame>();
    if (!got.ok()) return got;
    overheard_ += byte;
  }
}

std::string Remote::numeric_address() const {
  sockaddr_storage peer{};
  socklen_t bytes = sizeof peer;
  char text[INET6_ADDRSTRLEN] = "";
  if (::getpeername(socket_.get(), reinterpret_cast<sockaddr*>(&peer), &bytes) < 0) return {};
  if (peer.ss_family == AF_INET)
    ::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(&peer)->sin_addr, text, sizeof text);
  if (peer.ss_family == AF_INET6)
    ::inet_ntop(AF_INET6, &reinterpret_cast<sockaddr_in6*>(&peer)->sin6_addr, text, sizeof text);
  return text;
}

std::string printable(const std::string& text) {
  std::string safe = text;
  for (char& c : safe)
    if (uint8_t(c) < 0x20 || c == 0x7f) c = '?';
  return safe;
}

}  // namespace bf::tools
