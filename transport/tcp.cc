// tcp: one connection per stream, several for bulk.
//
// Every bulk connection has a sender and a receiver thread (bulk_engine.h). Whichever sender is free takes the next
// block, so blocks spread over the connections by how fast each takes them. Credits, which let the peer go on, travel
// between the blocks of the other direction, through the sender threads.
//
// Sockets block: shutdown(2) wakes every thread in them, and descriptors are closed only after all threads are gone.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "transport/bulk_engine.h"
#include "transport/tcp_wire.h"
#include "transport/transport.h"

namespace bf::transport {
namespace {

using Clock = std::chrono::steady_clock;

// kUnavailable if the peer closed the connection, another code if the network or this machine failed.
Status failure(const char* what, int error) {
  bool closed = error == EPIPE || error == ECONNRESET;
  return {closed ? StatusCode::kUnavailable : StatusCode::kInternal, std::string(what) + ": " + strerror(error)};
}

// For users of a stream the peer is gone either way.
Status gone(const Status& why) { return {StatusCode::kUnavailable, why.message()}; }

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
      ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | (parts.empty() ? 0 : MSG_MORE));
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

Status cut_off() { return {StatusCode::kUnavailable, "the peer left in the middle of a bulk block"}; }

// False at an orderly end before the first byte.
Result<bool> receive_all(int fd, void* out, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    ssize_t got = recv(fd, static_cast<std::byte*>(out) + done, bytes - done, MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure("receiving from the peer failed", errno);
    if (got == 0 && done == 0) return false;
    if (got == 0) return cut_off();
    done += size_t(got);
  }
  return true;
}

// Ends a connection both ways so that a peer blocked in a send notices, too. shutdown(2) alone would leave the peer's
// window closed for ever if unread bytes fill our buffer. Dropping them (MSG_TRUNC copies nothing) opens the window
// while the read side is still open to say so; what arrives after that is answered with a reset. Whoever still receives
// may then see bytes with a gap before them: set a flag first, and look at it after every receive.
void hang_up_socket(int fd) {
  for (int how : {SHUT_WR, SHUT_RD}) {
    shutdown(fd, how);
    recv(fd, nullptr, 1 << 30, MSG_TRUNC | MSG_DONTWAIT);
  }
}

class TcpStream : public Stream {
 public:
  explicit TcpStream(Fd fd) : fd_(std::move(fd)) {}

  Status send(std::span<const iovec> parts) override {
    Status status = send_all(fd_.get(), parts);
    return status.ok() ? status : gone(status);
  }

  Result<size_t> receive(std::span<std::byte> buffer, std::chrono::microseconds spin) override {
    int flags = MSG_DONTWAIT;
    Clock::time_point deadline;
    if (spin.count() > 0) {
      deadline = Clock::now() + spin;
    } else {
      flags = 0;
    }
    for (;;) {
      ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), flags);
      if (got >= 0) {
        if (!shut_) return size_t(got);
        return Status(StatusCode::kUnavailable, "the link was shut on this side");
      }
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        if (Clock::now() >= deadline) flags = 0;  // a blocking recv sleeps and fetches in one system call
      } else if (errno != EINTR) {
        return gone(failure("receiving from the peer failed", errno));
      }
    }
  }

  void shut() noexcept override {
    shut_ = true;
    hang_up_socket(fd_.get());
  }

 private:
  Fd fd_;
  std::atomic<bool> shut_{false};
};

class TcpBulk : public BulkEngine {
 public:
  TcpBulk(std::vector<Fd> channels, std::function<void()> link_failed)
      : BulkEngine(uint32_t(channels.size()), limits::kBulkBlocks, true, std::move(link_failed)),
        channels_(std::move(channels)) {
    // Pages come into being when a block lands in them, so a side that always places pays nothing.
    constexpr size_t kBytes = limits::kBulkBlocks * limits::kBulkBlockBytes;
    void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) ring_ = {static_cast<std::byte*>(memory), kBytes};
  }

  ~TcpBulk() override {
    stop();
    if (!ring_.empty()) munmap(ring_.data(), ring_.size());
  }

 private:
  Status write(uint32_t channel, const SendQueue::Job& job) override {
    TcpHeader header = job.is_credit ? tcp_credit_header(job.block.sequence) : tcp_block_header(job.block);
    iovec parts[2] = {{&header, sizeof header}, {const_cast<std::byte*>(job.data), job.block.bytes}};
    return send_all(channels_[channel].get(), std::span(parts, job.is_credit ? 1 : 2));
  }

  Result<bool> read(uint32_t channel) override {
    int fd = channels_[channel].get();
    TcpHeader header;
    auto more = receive_all(fd, &header, sizeof header);
    if (hung_up_) return false;
    if (!more.ok() || !more.value()) return more;
    auto event = accept_tcp_header(header, queue_, window_);
    if (!event.ok()) return event.status();
    if (!event->is_block) return true;
    auto to = target(event->block);
    if (!to.ok()) return to.status();
    auto whole = receive_all(fd, to->data, event->block.bytes);
    if (hung_up_) return false;
    if (!whole.ok()) return whole;
    if (!whole.value()) return cut_off();
    BF_RETURN_IF_ERROR(landed(event->block, *to));
    return true;
  }

  void hang_up() noexcept override {
    hung_up_ = true;
    for (const Fd& channel : channels_) hang_up_socket(channel.get());
  }

  void window_moved() override {
    if (auto released = window_.due_credit()) queue_.announce(*released);
  }

  const std::vector<Fd> channels_;
  std::atomic<bool> hung_up_{false};
};

class TcpLink : public Link {
 public:
  TcpLink(Fd calls, Fd side, std::vector<Fd> bulk)
      : limits_{"tcp", false, true, limits::kBulkBlocks, uint32_t(bulk.size()), false},
        calls_(std::move(calls)),
        side_(std::move(side)),
        bulk_(std::move(bulk), [this] { shut(); }) {}

  ~TcpLink() override {
    shut();
    bulk_.stop();
  }

  Stream& calls() override { return calls_; }
  Stream& side() override { return side_; }
  Bulk& bulk() override { return bulk_; }
  const Limits& limits() const override { return limits_; }

  void shut() noexcept override {
    calls_.shut();
    side_.shut();
    bulk_.shut(Status(StatusCode::kUnavailable, "the link was shut"));
  }

 private:
  Limits limits_;
  TcpStream calls_;
  TcpStream side_;
  TcpBulk bulk_;
};

// A peer whose machine died says nothing: probes on idle connections (side, bulk) find out within 25 s, and their
// failure ends the link. Not TCP_USER_TIMEOUT: it would also end a link whose live peer leaves data unread for long.
void prepare(const Fd& fd) {
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  int on = 1, idle_s = 10, interval_s = 5, probes = 3;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt(fd.get(), IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  setsockopt(fd.get(), IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

}  // namespace

std::unique_ptr<Link> make_tcp_link(Fd calls, Fd side, std::vector<Fd> bulk) {
  BF_CHECK(!bulk.empty());
  prepare(calls);
  prepare(side);
  for (Fd& fd : bulk) prepare(fd);
  return std::make_unique<TcpLink>(std::move(calls), std::move(side), std::move(bulk));
}

}  // namespace bf::transport
