#include "server/daemon/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace bf::daemon {
namespace {

constexpr size_t kRawBytes = 8 << 10;  // of encrypted bytes at once; thousands of connections may hold as much
constexpr int kRecognisedBytes = 3;    // tell a TLS record from a frame
constexpr size_t kZeroFrameBytes = 1 << 20;
const char kZeroes[64 << 10] = {};

size_t max_payload(uint16_t opcode, const Identity& who) {
  if (opcode == uint16_t(Opcode::kPing)) return limits::kInlineBytes;
  if (opcode == uint16_t(Opcode::kBandwidth)) return limits::kPayloadBytes;
  if (opcode == uint16_t(Opcode::kManage) && who.admin) return limits::kPayloadBytes;  // a backup
  return 0;
}

std::string frame_bytes(Opcode opcode, uint16_t flags, std::string_view body, size_t payload_bytes) {
  FrameHeader header{uint32_t(body.size()), uint32_t(payload_bytes), uint16_t(opcode), flags, 0};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  return bytes.append(body);
}

std::string peer_name(int socket) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&address), &bytes) < 0) return "a peer that left";
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
    ::inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
    return std::string(text) + ":" + std::to_string(ntohs(v4->sin_port));
  }
  if (address.ss_family == AF_INET6) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    return "[" + std::string(text) + "]:" + std::to_string(ntohs(v6->sin6_port));
  }
  ucred credentials{};
  bytes = sizeof credentials;
  ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes);
  return "local process " + std::to_string(credentials.pid);
}

// A client host that loses power says nothing; keep-alive finds out within 25 s, and TCP_USER_TIMEOUT does while bytes
// of ours are on their way.
void set_tcp_options(int socket) {
  int on = 1, idle_s = 10, interval_s = 5, probes = 3, unanswered_ms = 25'000;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  ::setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

}  // namespace

std::optional<uid_t> peer_uid(int socket) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0 || peer.pid == 0) return std::nullopt;
  return peer.uid;
}

// A TLS record of a handshake. As a frame it would have a body longer than any.
bool begins_tls(const void* bytes) {
  auto* b = static_cast<const uint8_t*>(bytes);
  return b[0] == 0x16 && b[1] == 0x03 && b[2] >= 0x01;
}

Connection::Connection(EventLoop& loop, Fd socket, uint64_t id, bool local,
                       std::shared_ptr<transport::Tls::Certificate> certificate, Owner& owner)
    : loop_(loop),
      socket_(std::move(socket)),
      id_(id),
      local_(local),
      owner_(owner),
      peer_(peer_name(socket_.get())),
      last_progress_(EventLoop::Clock::now()),
      certificate_(local ? nullptr : std::move(certificate)) {
  if (!local) set_tcp_options(socket_.get());
  // No event before there are enough bytes to look at.
  if (certificate_ != nullptr)
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVLOWAT, &kRecognisedBytes, sizeof kRecognisedBytes);
}

Connection::~Connection() { close(); }

bool Connection::loopback() const {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (local_) return true;
  if (::getpeername(socket_.get(), reinterpret_cast<sockaddr*>(&address), &bytes) < 0) return false;
  if (address.ss_family == AF_INET)
    return (ntohl(reinterpret_cast<sockaddr_in*>(&address)->sin_addr.s_addr) >> 24) == 127;
  auto& v6 = reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr;
  if (address.ss_family != AF_INET6) return false;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

Status Connection::start() {
  interest_ = EPOLLIN | EPOLLRDHUP;
  return loop_.watch(socket_.get(), interest_, [this](uint32_t events) { on_events(events); });
}

void Connection::close() {
  if (!socket_) return;
  loop_.forget(socket_.get());
  socket_.reset();
}

Fd Connection::detach() {
  loop_.forget(socket_.get());
  if (!local_) {
    int none = 0;  // the session's transport has its own ways, for peers that leave data unread for long
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &none, sizeof none);
  }
  ::fcntl(socket_.get(), F_SETFL, ::fcntl(socket_.get(), F_GETFL) & ~O_NONBLOCK);
  return std::move(socket_);
}

bool Connection::overdue(EventLoop::Clock::time_point now) const {
  bool owes = !kept_ || stage_ != Stage::kHeader || have_ > 0 || sending();
  return owes && now - last_progress_ > std::chrono::milliseconds(limits::kHandshakeTimeoutMs);
}

void Connection::lose(const Status& why) {
  close();
  owner_.on_lost(*this, why);
}

void Connection::on_events(uint32_t events) {
  if (sending() && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))) {
    write_some();
    // The engine may hold a request that no further event would announce.
    if (socket_ && !busy() && tls_ != nullptr) read_encrypted();
  }
  if (socket_ && !busy() && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) read_some();
  // Half closed while a reply is pending: nobody may be reading any more, and nothing will follow.
  if (socket_ && busy() && (events & (EPOLLHUP | EPOLLERR))) lose({StatusCode::kUnavailable, "the peer left"});
  update_interest();
}

void Connection::update_interest() {
  if (!socket_) return;
  uint32_t wanted = sending() ? uint32_t(EPOLLOUT) : held_ ? 0 : EPOLLIN | EPOLLRDHUP;
  if (wanted != interest_) loop_.change(socket_.get(), interest_ = wanted);
}

void Connection::read_some() {
  if (certificate_ != nullptr && !recognise()) return;
  tls_ != nullptr ? read_encrypted() : read_plain();
}

bool Connection::recognise() {
  uint8_t first[kRecognisedBytes] = {};
  ssize_t got = ::recv(socket_.get(), first, sizeof first, MSG_DONTWAIT | MSG_PEEK);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return false;
  if (got < kRecognisedBytes) return lose({StatusCode::kUnavailable, "the peer closed the connection"}), false;
  int one = 1;
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
  auto certificate = std::exchange(certificate_, nullptr);
  if (!begins_tls(first)) return true;
  auto tls = transport::Tls::with_certificate(*certificate);
  if (!tls.ok()) return lose(tls.status()), false;
  tls_ = std::move(*tls);
  raw_.resize(kRawBytes);
  return true;
}

std::span<char> Connection::wanted(std::span<char> sink) {
  if (stage_ == Stage::kHeader) return {reinterpret_cast<char*>(&header_) + have_, sizeof header_ - have_};
  if (stage_ == Stage::kBody) return {body_.data() + have_, body_.size() - have_};
  size_t left = header_.payload_bytes - have_;
  if (header_.opcode == uint16_t(Opcode::kBandwidth)) return sink.first(std::min(left, sink.size()));
  return {payload_.data() + have_, left};
}

void Connection::read_plain() {
  char sink[64 << 10];
  for (size_t budget = kBudgetBytes; budget > 0 && socket_ && !busy();) {
    auto to = wanted(sink);
    ssize_t got = ::recv(socket_.get(), to.data(), std::min(to.size(), budget), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got < 0) return lose(errno_status("receiving", errno));
    if (got == 0) return lose({StatusCode::kUnavailable, "the peer closed the connection"});
    budget -= size_t(got);
    if (step(size_t(got))) return;  // one frame per event
  }
}

// All that the engine holds must be taken, because no event announces it; that is at most what came in raw_.
void Connection::read_encrypted() {
  char sink[16 << 10];
  for (size_t budget = kBudgetBytes; socket_ && !busy();) {
    if (!shaken_) {
      auto done = tls_->handshake();
      cipher_ += std::exchange(tls_->out(), {});
      if (!done.ok()) {
        write_some();  // what the peer should know of it
        if (socket_) lose(done.status());
        return;
      }
      shaken_ = *done;
      write_some();
    }
    while (socket_ && shaken_ && !busy()) {
      auto got = tls_->read(std::as_writable_bytes(wanted(sink)));
      if (!got.ok()) return lose(got.status());
      if (*got == 0) break;
      step(*got);
    }
    if (!socket_ || busy() || budget < raw_.size()) return;
    ssize_t got = ::recv(socket_.get(), raw_.data(), raw_.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got < 0) return lose(errno_status("receiving", errno));
    if (got == 0) return lose({StatusCode::kUnavailable, "the peer closed the connection"});
    budget -= size_t(got);
    tls_->feed(std::as_bytes(std::span(raw_).first(size_t(got))));
  }
}

bool Connection::step(size_t bytes) {
  // The clock of a frame starts with its first byte and runs on, or a drip of bytes would hold the connection forever;
  // only netperf's bulk may take longer, as long as it moves.
  if (stage_ == Stage::kHeader && have_ == 0) last_progress_ = EventLoop::Clock::now();
  if (stage_ == Stage::kPayload && have_ / kZeroFrameBytes != (have_ + bytes) / kZeroFrameBytes)
    last_progress_ = EventLoop::Clock::now();
  have_ += bytes;
  if (stage_ == Stage::kHeader && have_ == sizeof header_) {
    if (!control::control_header_ok(header_, max_payload(header_.opcode, identity_))) {
      lose({StatusCode::kInvalid, "the peer does not speak Backfield's protocol"});
      return true;
    }
    body_.assign(header_.body_bytes, '\0');
    bool drop = header_.opcode == uint16_t(Opcode::kBandwidth);
    payload_.assign(drop ? 0 : header_.payload_bytes, '\0');
    stage_ = Stage::kBody;
    have_ = 0;
  }
  if (stage_ == Stage::kBody && have_ == body_.size()) {
    stage_ = Stage::kPayload;
    have_ = 0;
  }
  if (stage_ != Stage::kPayload || have_ != header_.payload_bytes) return false;
  deliver();
  return true;
}

void Connection::deliver() {
  control::Frame frame{Opcode(header_.opcode), header_.flags, std::move(body_), std::move(payload_)};
  body_.clear();
  payload_.clear();
  stage_ = Stage::kHeader;
  have_ = 0;
  last_progress_ = EventLoop::Clock::now();
  owner_.on_frame(*this, std::move(frame));
}

void Connection::hold() {
  held_ = true;
  update_interest();
}

void Connection::reply(Opcode opcode, std::string body, std::string payload) {
  out_ = frame_bytes(opcode, kReply, body, payload.size()) + payload;
  out_sent_ = 0;
  write_some();
}

void Connection::tell(Opcode opcode, uint16_t flags, std::string body) {
  if (!socket_ || busy()) return;
  out_ = frame_bytes(opcode, flags, body, 0);
  out_sent_ = 0;
  write_some();
}

void Connection::reply_zeroes(Opcode opcode, uint64_t bytes) {
  stream_opcode_ = opcode;
  stream_ = std::min(bytes, kStreamBytes);
  zeroes_ = size_t(std::min<uint64_t>(stream_, kZeroFrameBytes));
  stream_ -= zeroes_;
  out_ = frame_bytes(opcode, kReply, {}, zeroes_);
  out_sent_ = 0;
  write_some();
}

void Connection::reply_and_close(Opcode opcode, uint16_t flags, std::string body) {
  closing_ = true;
  out_ = frame_bytes(opcode, flags, body, 0);
  out_sent_ = 0;
  write_some();
}

// The next piece of what is to be sent: encrypted bytes first, then the frame in out_, then zeroes.
bool Connection::send_some(size_t& budget) {
  if (cipher_.empty() && out_.empty() && zeroes_ == 0) {
    zeroes_ = size_t(std::min<uint64_t>(stream_, kZeroFrameBytes));
    stream_ -= zeroes_;
    out_ = frame_bytes(stream_opcode_, kReply, {}, zeroes_);
    out_sent_ = 0;
  }
  bool head = !out_.empty();
  const char* from = head ? out_.data() + out_sent_ : kZeroes;
  size_t bytes = std::min({head ? out_.size() - out_sent_ : zeroes_, head ? SIZE_MAX : sizeof kZeroes, budget});
  size_t moved = bytes;
  if (tls_ != nullptr && cipher_.empty()) {
    iovec part{const_cast<char*>(from), bytes};
    if (Status written = tls_->write(std::span(&part, 1)); !written.ok()) return lose(written), false;
    cipher_.swap(tls_->out());
  } else {
    if (!cipher_.empty()) from = cipher_.data(), bytes = std::min(cipher_.size(), budget);
    ssize_t sent =
        ::send(socket_.get(), from, bytes, MSG_DONTWAIT | MSG_NOSIGNAL | (head && zeroes_ > 0 ? MSG_MORE : 0));
    if (sent < 0 && errno == EINTR) return true;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (sent < 0) return lose(errno_status("sending", errno)), false;
    last_progress_ = EventLoop::Clock::now();
    budget -= size_t(sent);
    if (!cipher_.empty()) return cipher_.erase(0, size_t(sent)), true;
    moved = size_t(sent);
  }
  if (!head) {
    zeroes_ -= moved;
  } else if ((out_sent_ += moved) == out_.size()) {
    out_.clear();
  }
  return true;
}

void Connection::write_some() {
  for (size_t budget = kBudgetBytes; budget > 0 && socket_ && sending();)
    if (!send_some(budget)) break;
  if (!socket_) return;
  if (closing_ && !sending()) {
    ::shutdown(socket_.get(), SHUT_WR);
    return lose({StatusCode::kUnavailable, "refused"});
  }
  update_interest();
}

}  // namespace bf::daemon
