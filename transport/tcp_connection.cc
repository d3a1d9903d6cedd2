#include "transport/tcp_connection.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace bf::transport {
namespace {

constexpr int kWithoutWakeMs = 10;  // no descriptor was to be had for what wakes a sleeper: look this often

using Clock = std::chrono::steady_clock;

constexpr size_t kRawBytes = 256 << 10;  // fetched at once: sixteen TLS records
constexpr int kUnsentBytes = 256 << 10;  // of hold_little(): a quarter of a block

Status failure(const char* what, int error) {
  bool closed = error == EPIPE || error == ECONNRESET;
  return {closed ? StatusCode::kUnavailable : StatusCode::kInternal, std::string(what) + ": " + strerror(error)};
}

// Sends all of `parts`. Works on a copy of at most kPartsAtOnce parts, because sendmsg may stop inside one.
Status send_all(int fd, std::span<const iovec> parts) {
  constexpr size_t kPartsAtOnce = 64;
  std::array<iovec, kPartsAtOnce> window;
  while (!parts.empty()) {
    size_t count = std::min(parts.size(), kPartsAtOnce);
    std::copy_n(parts.begin(), count, window.begin());
    parts = parts.subspan(count);
    size_t first = 0;
    for (;;) {
      while (first < count && window[first].iov_len == 0) first++;
      if (first == count) break;
      msghdr message{};
      message.msg_iov = &window[first];
      message.msg_iovlen = count - first;
      const int flags = MSG_NOSIGNAL | (parts.empty() ? 0 : MSG_MORE);
      // For a single part send(2) is 80 ns quicker (measured on Linux 6.18).
      ssize_t sent = message.msg_iovlen == 1 ? ::send(fd, message.msg_iov->iov_base, message.msg_iov->iov_len, flags) : sendmsg(fd, &message, flags);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0) return failure("sending to the peer failed", errno);
      for (size_t left = size_t(sent); left > 0;) {
        size_t taken = std::min(left, window[first].iov_len);
        window[first].iov_base = static_cast<std::byte*>(window[first].iov_base) + taken;
        window[first].iov_len -= taken;
        left -= taken;
        if (window[first].iov_len == 0) first++;
      }
    }
  }
  return ok_status();
}

Status send_all(int fd, const std::string& bytes) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  return send_all(fd, std::span(&part, 1));
}

// As TcpConnection::receive(), from the socket itself.
Result<size_t> receive_some(int fd, std::span<std::byte> buffer) {
  for (;;) {
    ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
    if (got >= 0) return size_t(got);
    if (errno != EINTR) return failure("receiving from the peer failed", errno);
  }
}

#if defined(__SSE2__)
constexpr size_t kPartBytes = 64 << 10;  // received at once, and still in the caches when it is copied on

void copy_past_caches(std::byte* to, const std::byte* from, size_t bytes) {
  const size_t head = std::min(bytes, -uintptr_t(to) % sizeof(__m128i)), body = (bytes - head) / sizeof(__m128i) * sizeof(__m128i);
  std::memcpy(to, from, head);
  for (size_t at = head; at < head + body; at += sizeof(__m128i))
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
  std::memcpy(to + head + body, from + head + body, bytes - head - body);
}
#endif

// A peer whose machine died says nothing: probes on idle connections (side, bulk) find out within 25 s, and their
// failure ends the link. Not TCP_USER_TIMEOUT: it would also end a link whose live peer leaves data unread for long.
void prepare(int fd) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  int on = 1, idle_s = 10, interval_s = 5, probes = 3;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

}  // namespace

TcpConnection::TcpConnection(Fd fd) : fd_(std::move(fd)) { prepare(fd_.get()); }

void TcpConnection::hold_little() noexcept {
  setsockopt(fd_.get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kUnsentBytes, sizeof kUnsentBytes);
}

Status TcpConnection::secure(std::string_view key, bool server, Clock::time_point deadline) {
  auto tls = Tls::with_key(key, server);
  if (!tls.ok()) return tls.status();
  auto cipher = std::make_unique<Cipher>();
  cipher->tls = std::move(*tls);
  cipher->raw.resize(kRawBytes);
  for (;;) {
    auto done = cipher->tls->handshake();
    // Also what says why it failed.
    if (Status sent = send_all(fd_.get(), std::exchange(cipher->tls->out(), {})); done.ok() && !sent.ok()) return sent;
    if (!done.ok()) return done.status();
    if (*done) break;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd wanted{fd_.get(), POLLIN, 0};
    int ready = left <= 0 ? 0 : poll(&wanted, 1, int(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return {StatusCode::kTimeout, "the peer did not finish the TLS handshake in time"};
    auto got = receive_some(fd_.get(), cipher->raw);
    if (!got.ok()) return got.status();
    if (*got == 0) return {StatusCode::kUnavailable, "the peer left during the TLS handshake"};
    cipher->tls->feed(std::span(cipher->raw).first(*got));
  }
  cipher->more = cipher->tls->holds_more();  // what came together with the end of the handshake
  cipher_ = std::move(cipher);
  return {};
}

Status TcpConnection::send(std::span<const iovec> parts) {
  return cipher_ != nullptr ? send_encrypted(parts) : send_all(fd_.get(), parts);
}

Status TcpConnection::send_encrypted(std::span<const iovec> parts) {
  {
    std::lock_guard lock(cipher_->mutex);
    BF_RETURN_IF_ERROR(cipher_->tls->write(parts));
    cipher_->sending.swap(cipher_->tls->out());
  }
  Status status = send_all(fd_.get(), cipher_->sending);
  cipher_->sending.clear();
  return status;
}

Result<size_t> TcpConnection::receive(std::span<std::byte> buffer) {
  return cipher_ != nullptr ? receive_encrypted(buffer) : receive_some(fd_.get(), buffer);
}

std::optional<Result<size_t>> TcpConnection::receive_now(std::span<std::byte> buffer) {
  ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got >= 0) return size_t(got);
  if (errno == EAGAIN || errno == EINTR) return std::nullopt;
  return failure("receiving from the peer failed", errno);
}

// poll(2) leaves the socket's lock alone. recv(2) takes it even where nothing has come, and who sends on the socket
// meanwhile would have to wait for it: asleep.
bool TcpConnection::ready() {
  if (cipher_ != nullptr && cipher_->more) return true;
  pollfd readable{fd_.get(), POLLIN, 0};
  return poll(&readable, 1, 0) > 0;
}

// What a receiver leaves in the engine the socket knows nothing of.
void TcpConnection::wait_until_ready() {
  if (cipher_ == nullptr) {
    pollfd readable{fd_.get(), POLLIN, 0};
    poll(&readable, 1, -1);
    return;
  }
  cipher_->waited = true;
  pollfd readable[] = {{fd_.get(), POLLIN, 0}, {cipher_->left.fd(), POLLIN, 0}};
  if (!cipher_->more) poll(readable, 2, cipher_->left.fd() < 0 ? kWithoutWakeMs : -1);
  cipher_->waited = false;
  cipher_->left.lower();
}

Result<size_t> TcpConnection::receive_encrypted(std::span<std::byte> buffer) {
  for (;;) {
    {
      std::lock_guard lock(cipher_->mutex);
      size_t filled = 0;
      // One record at a time comes out of the engine.
      while (filled < buffer.size()) {
        auto got = cipher_->tls->read(buffer.subspan(filled));
        if (!got.ok() && filled == 0) {
          if (got.status().code() == StatusCode::kUnavailable) return size_t{0};
          return got;
        }
        if (!got.ok() || *got == 0) break;
        filled += *got;
      }
      cipher_->more = cipher_->tls->holds_more();
      if (cipher_->more && cipher_->waited) cipher_->left.raise();
      if (filled > 0) return filled;
    }
    auto raw = receive_some(fd_.get(), cipher_->raw);
    if (!raw.ok() || *raw == 0) return raw;
    std::lock_guard lock(cipher_->mutex);
    cipher_->tls->feed(std::span(cipher_->raw).first(*raw));
  }
}

Result<bool> TcpConnection::receive_all(std::span<std::byte> buffer) {
  size_t done = 0;
  while (done < buffer.size()) {
    size_t got = 0;
    if (cipher_ != nullptr) {
      auto some = receive_encrypted(buffer.subspan(done));
      if (!some.ok()) return some.status();
      got = *some;
    } else {
      ssize_t some = recv(fd_.get(), buffer.data() + done, buffer.size() - done, MSG_WAITALL);
      if (some < 0 && errno == EINTR) continue;
      if (some < 0) return failure("receiving from the peer failed", errno);
      got = size_t(some);
    }
    if (got == 0 && done == 0) return false;
    if (got == 0) return cut_off();
    done += got;
  }
  return true;
}

Result<bool> TcpConnection::receive_all_for_device(std::span<std::byte> buffer) {
#if defined(__SSE2__)
  if (!part_) part_ = std::make_unique_for_overwrite<std::byte[]>(kPartBytes);
  for (size_t done = 0; done < buffer.size();) {
    const size_t bytes = std::min(kPartBytes, buffer.size() - done);
    auto whole = receive_all({part_.get(), bytes});
    if (whole.ok() && !whole.value() && done > 0) return cut_off();
    if (!whole.ok() || !whole.value()) return whole;
    copy_past_caches(buffer.data() + done, part_.get(), bytes);
    done += bytes;
  }
  _mm_sfence();  // whoever is told of the bytes after this sees them, devices too
  return true;
#else
  return receive_all(buffer);
#endif
}

// shutdown(2) alone would leave the peer's window closed for ever if unread bytes fill our buffer. Dropping them
// (MSG_TRUNC copies nothing) opens the window while the read side is still open to say so; what arrives after that is
// answered with a reset.
void TcpConnection::hang_up() noexcept {
  for (int how : {SHUT_WR, SHUT_RD}) {
    shutdown(fd_.get(), how);
    recv(fd_.get(), nullptr, 1 << 30, MSG_TRUNC | MSG_DONTWAIT);
  }
}

}  // namespace bf::transport
