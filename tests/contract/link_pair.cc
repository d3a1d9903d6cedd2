#include "tests/contract/link_pair.h"

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "transport/rdma.h"

extern char** environ;

namespace bf::transport::test {
namespace {

constexpr int kPeerFdBase = 200;

uint16_t port_of(const Fd& listener) {
  sockaddr_storage name{};
  socklen_t bytes = sizeof name;
  getsockname(listener.get(), reinterpret_cast<sockaddr*>(&name), &bytes);
  return ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(name).sin6_port
                                          : reinterpret_cast<sockaddr_in&>(name).sin_port);
}

// Where the two ends of an rdma link meet.
const char* rdma_host() { return getenv("BF_TEST_RDMA"); }
const std::string kSessionKey(32, 's');

// The worker tells its port over the control connection, as bfserver's attach does.
std::unique_ptr<Link> rdma_link_over(Fd control, bool worker) {
  constexpr auto kPatience = std::chrono::seconds(60);  // the host may be emulated
  uint16_t port = 0;
  if (worker) {
    auto listener = RdmaListener::open(rdma_host(), kSessionKey);
    if (!listener.ok()) fprintf(stderr, "%s\n", listener.status().message().c_str());
    BF_CHECK(listener.ok());
    port = (*listener)->port();
    BF_CHECK(send(control.get(), &port, sizeof port, MSG_NOSIGNAL) == sizeof port);
    auto link = (*listener)->accept(control, -1, kPatience);
    if (!link.ok()) fprintf(stderr, "%s\n", link.status().message().c_str());
    BF_CHECK(link.ok());
    return std::move(link).value();
  }
  BF_CHECK(recv(control.get(), &port, sizeof port, MSG_WAITALL) == sizeof port);
  auto link = connect_rdma_link(control, rdma_host(), port, kSessionKey, kPatience);
  if (!link.ok()) fprintf(stderr, "%s\n", link.status().message().c_str());
  BF_CHECK(link.ok());
  return std::move(link).value();
}

}  // namespace

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kTcp4:
      return "Tcp4";
    case Kind::kTcp6:
      return "Tcp6";
    case Kind::kTls:
      return "Tls";
    case Kind::kShm:
      return "Shm";
    case Kind::kRdma:
      return "Rdma";
    case Kind::kLoopback:
      return "Loopback";
    case Kind::kLoopbackDelay:
      return "LoopbackDelay";
    case Kind::kLoopbackSplit:
      return "LoopbackSplit";
  }
  return "?";
}

std::string missing(Kind kind) {
  Address address;
  address.host = "::1";
  if (kind == Kind::kTcp6 && !listen(address, 1).ok()) return "this machine has no IPv6";
  if (kind == Kind::kRdma && !rdma_host()) return "no RDMA address is named by BF_TEST_RDMA (tests/rdma runs this in a VM)";
  return kind == Kind::kRdma ? rdma_available().message() : "";
}

std::vector<Kind> all_kinds() {
  return {Kind::kTcp4, Kind::kTcp6, Kind::kTls, Kind::kShm, Kind::kRdma, Kind::kLoopback, Kind::kLoopbackDelay, Kind::kLoopbackSplit};
}

Sockets connect_sockets(Kind kind, size_t count) {
  Sockets sockets;
  if (kind == Kind::kShm) {
    int two[2];
    BF_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, two) == 0);
    for (int i : {0, 1}) sockets.ends[i].emplace_back(two[i]);
    return sockets;
  }
  Address address;
  address.host = kind == Kind::kTcp6 ? "::1" : "127.0.0.1";
  auto listener = listen(address, 16);
  BF_CHECK(listener.ok());
  address.port = port_of(*listener);
  for (size_t i = 0; i < count; i++) {
    auto dialed = dial(address, std::chrono::seconds(10));
    BF_CHECK(dialed.ok());
    pollfd wanted{listener->get(), POLLIN, 0};
    poll(&wanted, 1, 10'000);
    Fd accepted(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
    BF_CHECK(accepted);
    sockets.ends[0].push_back(std::move(dialed).value());
    sockets.ends[1].push_back(std::move(accepted));
  }
  return sockets;
}

std::unique_ptr<Link> link_over(Kind kind, std::vector<Fd> sockets, bool worker) {
  if (kind == Kind::kRdma) return rdma_link_over(std::move(sockets[0]), worker);
  if (kind == Kind::kShm) {
    auto link = worker ? offer_shm_link(std::move(sockets[0]))
                       : accept_shm_link(std::move(sockets[0]), std::chrono::seconds(10));
    BF_CHECK(link.ok());
    return std::move(link).value();
  }
  const End end = worker ? End::kWorker : End::kClient;
  std::vector<Fd> bulk;
  for (size_t i = 2; i < sockets.size(); i++) bulk.push_back(std::move(sockets[i]));
  if (kind == Kind::kTls) {
    auto link = make_tls_link(std::move(sockets[0]), std::move(sockets[1]), std::move(bulk), std::string(32, 'k'), end,
                              std::chrono::seconds(10));
    BF_CHECK(link.ok());
    return std::move(link).value();
  }
  return make_tcp_link(std::move(sockets[0]), std::move(sockets[1]), std::move(bulk), end);
}

Pair make_pair(Kind kind, uint32_t bulk_channels) {
  Faults faults;
  if (kind == Kind::kLoopbackDelay) faults.delay = std::chrono::microseconds(300);
  if (kind == Kind::kLoopbackSplit) faults.split_bytes = 7919;
  if (kind == Kind::kLoopback || kind == Kind::kLoopbackDelay || kind == Kind::kLoopbackSplit) {
    LoopbackPair pair = make_loopback(faults, faults);
    return {std::move(pair.client), std::move(pair.worker)};
  }
  Sockets sockets = connect_sockets(kind, 2 + bulk_channels);
  Pair pair;
  // At the same time: a TLS handshake takes two, and so does connecting queue pairs.
  std::thread worker([&] { pair.worker = link_over(kind, std::move(sockets.ends[1]), true); });
  pair.client = link_over(kind, std::move(sockets.ends[0]), false);
  worker.join();
  return pair;
}

PeerProcess::PeerProcess(Kind kind, std::vector<Fd> worker_sockets) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (size_t i = 0; i < worker_sockets.size(); i++)
    posix_spawn_file_actions_adddup2(&actions, worker_sockets[i].get(), kPeerFdBase + int(i));
  std::string count = std::to_string(worker_sockets.size());
  std::string number = std::to_string(int(kind));
  char program[] = "/proc/self/exe", flag[] = "--peer";
  char* arguments[] = {program, flag, number.data(), count.data(), nullptr};
  BF_CHECK(posix_spawn(&pid_, program, &actions, nullptr, arguments, environ) == 0);
  posix_spawn_file_actions_destroy(&actions);
}

void PeerProcess::kill_now() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

int peer_main(int argc, char** argv) {
  if (argc != 4) return 2;
  Kind kind = Kind(atoi(argv[2]));
  std::vector<Fd> sockets;
  for (int i = 0; i < atoi(argv[3]); i++) sockets.emplace_back(kPeerFdBase + i);
  Sink sink;
  auto link = link_over(kind, std::move(sockets), true);
  link->bulk().start(sink);
  std::byte ready{1};
  iovec part{&ready, 1};
  if (!link->side().send(std::span(&part, 1)).ok()) return 1;
  sink.wait_lost(std::chrono::minutes(2));
  return 0;
}

bool Sink::landed(const Block& block, std::byte* data) noexcept {
  bool agreed = on_landed ? on_landed(block, data) : true;
  std::lock_guard lock(mutex_);
  blocks_.push_back(block);
  changed_.notify_all();
  return agreed;
}

void Sink::lost(const Status&) noexcept {
  std::lock_guard lock(mutex_);
  lost_++;
  changed_.notify_all();
}

bool Sink::wait_landed(size_t count, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [&] { return blocks_.size() >= count; });
}

bool Sink::wait_lost(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [&] { return lost_ > 0; });
}

size_t Sink::landed_count() {
  std::lock_guard lock(mutex_);
  return blocks_.size();
}

int Sink::lost_count() {
  std::lock_guard lock(mutex_);
  return lost_;
}

std::vector<Block> Sink::blocks() {
  std::lock_guard lock(mutex_);
  return blocks_;
}

std::function<void(const Status&)> SentCounter::callback() {
  return [this](const Status& status) {
    std::lock_guard lock(mutex_);
    (status.ok() ? ok_ : failed_)++;
    changed_.notify_all();
  };
}

bool SentCounter::wait(int count, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [&] { return ok_ + failed_ >= count; });
}

int SentCounter::ok() {
  std::lock_guard lock(mutex_);
  return ok_;
}

int SentCounter::failed() {
  std::lock_guard lock(mutex_);
  return failed_;
}

Status send_on(Stream& stream) {
  std::vector<std::byte> piece(1 << 20);
  iovec part{piece.data(), piece.size()};
  Status sent;
  for (int i = 0; i < 100 && sent.ok(); i++) sent = stream.send(std::span(&part, 1));
  return sent;
}

bool receive_exactly(Stream& stream, std::span<std::byte> out, std::chrono::microseconds spin) {
  while (!out.empty()) {
    await_ready(stream, spin);
    auto got = stream.receive(out);
    if (!got.ok() || got.value() == 0) return false;
    out = out.subspan(got.value());
  }
  return true;
}

std::vector<std::byte> random_bytes(size_t count, uint64_t seed) {
  std::vector<std::byte> bytes(count);
  uint64_t word = seed + 0x9e3779b97f4a7c15;  // xorshift: nothing is called for each word
  for (size_t at = 0; at < count; at += sizeof word) {
    word ^= word << 13;
    word ^= word >> 7;
    word ^= word << 17;
    memcpy(bytes.data() + at, &word, std::min(sizeof word, count - at));
  }
  return bytes;
}

bool same_bytes(std::span<const std::byte> one, std::span<const std::byte> other) {
  return one.size() == other.size() && memcmp(one.data(), other.data(), one.size()) == 0;
}

}  // namespace bf::transport::test
