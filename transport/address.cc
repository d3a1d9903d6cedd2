// Addresses, and the sockets they lead to.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <thread>

#include "transport/transport.h"

namespace bf::transport {
namespace {

using Clock = std::chrono::steady_clock;

struct AddrInfoFree {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using AddrInfoList = std::unique_ptr<addrinfo, AddrInfoFree>;

Status invalid_address(const std::string& text, const char* why) {
  return {StatusCode::kInvalid,
          "'" + text + "' is not an address: " + why + " (write HOST:PORT, [IPV6]:PORT or unix:NAME)"};
}

Result<AddrInfoList> resolve(const Address& address, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  int error = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &list);
  if (error != 0) {
    std::string why = error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error);
    return Status(StatusCode::kUnavailable, "cannot find the address of '" + address.host + "': " + why);
  }
  return AddrInfoList(list);
}

// The length of the used part of `out`. An abstract name starts with a zero byte and has no terminator.
socklen_t unix_address(const Address& address, sockaddr_un& out) {
  out = {};
  out.sun_family = AF_UNIX;
  memcpy(out.sun_path + 1, address.unix_name.data(), address.unix_name.size());
  return socklen_t(offsetof(sockaddr_un, sun_path) + 1 + address.unix_name.size());
}

Status wait_connected(int fd, Clock::time_point deadline) {
  for (;;) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd wanted{fd, POLLOUT, 0};
    int ready = poll(&wanted, 1, left > 0 ? int(left) + 1 : 0);
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return errno_status("poll", errno);
    if (ready == 0) return Status(StatusCode::kTimeout, "no answer in time");
    int error = 0;
    socklen_t bytes = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
    return error == 0 ? ok_status() : errno_status("connect", error);
  }
}

void make_blocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); }

// TCP connects a port of this machine to itself when nobody listens there and the kernel happens to choose the same
// port for this side; whoever waits for a server to start would take that for the server.
bool connected_to_itself(int fd) {
  sockaddr_storage own{}, peer{};
  socklen_t own_bytes = sizeof own, peer_bytes = sizeof peer;
  return getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_bytes) == 0 &&
         getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_bytes) == 0 && own_bytes == peer_bytes &&
         memcmp(&own, &peer, own_bytes) == 0;
}

Result<Fd> connect_one(int family, const sockaddr* address, socklen_t bytes, Clock::time_point deadline) {
  Fd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_status("socket", errno);
  while (connect(fd.get(), address, bytes) != 0) {
    if (errno == EINPROGRESS || errno == EINTR) {
      BF_RETURN_IF_ERROR(wait_connected(fd.get(), deadline));
      break;
    }
    if (errno != EAGAIN) return errno_status("connect", errno);
    // A Unix socket whose backlog is full; poll(2) does not wait for that.
    if (Clock::now() >= deadline) return Status(StatusCode::kTimeout, "no answer in time");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (family != AF_UNIX && connected_to_itself(fd.get())) return errno_status("connect", ECONNREFUSED);
  make_blocking(fd.get());
  int on = 1;
  if (family != AF_UNIX) setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

// dial() knows only these two failures: what else connect(2) says also means that nobody can be reached there.
Status unreachable(const Address& address, const Status& why) {
  StatusCode code = why.code() == StatusCode::kTimeout ? StatusCode::kTimeout : StatusCode::kUnavailable;
  return {code, "cannot reach " + address.to_string() + ": " + why.message()};
}

Status cannot_listen(const Address& address, int error) {
  std::string what = "cannot listen on " + address.to_string() + ": ";
  if (error == EADDRINUSE)
    return {StatusCode::kInvalid, what + "it is in use; stop the other program or choose another port"};
  if (error == EADDRNOTAVAIL)
    return {StatusCode::kInvalid, what + "this machine has no such address; leave the host empty for all addresses"};
  if (error == EACCES || error == EPERM) return {StatusCode::kDenied, what + "not permitted; choose a port above 1023"};
  return {StatusCode::kInternal, what + strerror(error)};
}

// The error number of the first step that failed, or 0 with `out` listening.
int listen_one(int family, const sockaddr* address, socklen_t bytes, bool dual_stack, int backlog, Fd& out) {
  Fd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno;
  int on = 1, only_v6 = dual_stack ? 0 : 1;
  if (family != AF_UNIX) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof only_v6);
  if (bind(fd.get(), address, bytes) != 0 || ::listen(fd.get(), backlog) != 0) return errno;
  out = std::move(fd);
  return 0;
}

}  // namespace

std::string Address::to_string() const {
  if (!unix_name.empty()) return "unix:" + unix_name;
  std::string shown = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return shown + ":" + std::to_string(port);
}

Result<Address> parse_address(const std::string& text, uint16_t default_port) {
  Address address;
  address.port = default_port;
  std::string_view rest = text;
  if (rest.starts_with("unix:")) {
    rest.remove_prefix(5);
    if (rest.empty()) return invalid_address(text, "the socket name is empty");
    if (rest.size() > sizeof(sockaddr_un::sun_path) - 1) return invalid_address(text, "the socket name is too long");
    address.unix_name = rest;
    return address;
  }
  if (rest.starts_with("tcp://")) rest.remove_prefix(6);
  if (rest.find_first_of(std::string_view(" \t\r\n/\0", 6)) != std::string_view::npos)
    return invalid_address(text, "it holds a character that no host has");

  std::string_view port;
  bool has_port = false;
  if (rest.starts_with('[')) {
    size_t end = rest.find(']');
    if (end == std::string_view::npos) return invalid_address(text, "']' is missing");
    address.host = rest.substr(1, end - 1);
    if (address.host.empty()) return invalid_address(text, "nothing stands between '[' and ']'");
    rest.remove_prefix(end + 1);
    has_port = !rest.empty();
    if (has_port && rest[0] != ':') return invalid_address(text, "':' must follow ']'");
    if (has_port) port = rest.substr(1);
  } else if (size_t colon = rest.find(':'); colon != std::string_view::npos && rest.find(':', colon + 1) == rest.npos) {
    address.host = rest.substr(0, colon);
    has_port = true;
    port = rest.substr(colon + 1);
  } else {
    address.host = rest;  // a name, or a bare IPv6 address
    if (rest.empty()) return invalid_address(text, "it is empty");
  }
  if (has_port) {
    auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
    if (error != std::errc{} || end != port.data() + port.size())
      return invalid_address(text, "the port must be a number from 0 to 65535");
  }
  return address;
}

Result<Fd> dial(const Address& address, std::chrono::milliseconds timeout) {
  auto deadline = Clock::now() + timeout;
  if (!address.unix_name.empty()) {
    sockaddr_un name;
    socklen_t bytes = unix_address(address, name);
    auto fd = connect_one(AF_UNIX, reinterpret_cast<sockaddr*>(&name), bytes, deadline);
    return fd.ok() ? std::move(fd) : Result<Fd>(unreachable(address, fd.status()));
  }
  auto found = resolve(address, AI_ADDRCONFIG);
  // AI_ADDRCONFIG hides ::1 and 127.0.0.1 on a machine that has nothing but loopback.
  if (!found.ok()) found = resolve(address, 0);
  if (!found.ok()) return found.status();

  int candidates = 0;
  for (addrinfo* one = found->get(); one; one = one->ai_next) candidates++;
  Status why;
  for (addrinfo* one = found->get(); one; one = one->ai_next) {
    // Each candidate gets its share, so that one that swallows packets leaves time for the next.
    auto now = Clock::now();
    auto share = now >= deadline ? Clock::duration(0) : (deadline - now) / candidates--;
    auto fd = connect_one(one->ai_family, one->ai_addr, one->ai_addrlen, now + share);
    if (fd.ok()) return fd;
    why = fd.status();
  }
  return unreachable(address, why);
}

Result<Fd> listen(const Address& address, int backlog) {
  Fd fd;
  if (!address.unix_name.empty()) {
    sockaddr_un name;
    socklen_t bytes = unix_address(address, name);
    int error = listen_one(AF_UNIX, reinterpret_cast<sockaddr*>(&name), bytes, false, backlog, fd);
    return error == 0 ? Result<Fd>(std::move(fd)) : Result<Fd>(cannot_listen(address, error));
  }
  if (address.host.empty()) {
    sockaddr_in6 any6{};
    any6.sin6_family = AF_INET6;
    any6.sin6_port = htons(address.port);
    int error = listen_one(AF_INET6, reinterpret_cast<sockaddr*>(&any6), sizeof any6, true, backlog, fd);
    if (error == EAFNOSUPPORT || error == EADDRNOTAVAIL) {  // a machine without IPv6
      sockaddr_in any4{};
      any4.sin_family = AF_INET;
      any4.sin_port = htons(address.port);
      error = listen_one(AF_INET, reinterpret_cast<sockaddr*>(&any4), sizeof any4, false, backlog, fd);
    }
    return error == 0 ? Result<Fd>(std::move(fd)) : Result<Fd>(cannot_listen(address, error));
  }
  auto found = resolve(address, AI_PASSIVE);
  if (!found.ok()) return Status(StatusCode::kInvalid, found.status().message());
  int error = 0;
  for (addrinfo* one = found->get(); one; one = one->ai_next) {
    error = listen_one(one->ai_family, one->ai_addr, one->ai_addrlen, false, backlog, fd);
    if (error == 0) return fd;
  }
  return cannot_listen(address, error);
}

}  // namespace bf::transport
