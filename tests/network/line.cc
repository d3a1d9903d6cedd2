// What the test link is made of and measured with, apart from Backfield:
//
//   line relay LISTEN_PORT HOST PORT DELAY_US   passes TCP connections on; every byte arrives DELAY_US later, each way
//   line serve PORT                             the other end of `measure` and `move`
//   line measure HOST PORT [SECONDS]            prints "rtt_us up_gb_s down_gb_s": a ping-pong of 64 bytes, and what four
//                                               connections move each way
//   line move HOST PORT BYTES [SECONDS]         prints "up_gb_s down_gb_s both_gb_s": what they make of a transfer of so many
//                                               bytes, from a buffer of that size into another, until it is acknowledged
//
// The relay polls, for sleeping costs more than the delays it is for; one thread for each direction, so it wants two
// processors to itself. It holds only what is not due yet: what the line does not take, it does not take either.
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr size_t kChunk = 256 << 10;
constexpr int kConnections = 4, kPings = 400;
constexpr size_t kPingBytes = 64;

[[noreturn]] void fail(const char* what) {
  fprintf(stderr, "line: %s: %s\n", what, strerror(errno));
  exit(1);
}

int connect_to(const char* host, const char* port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host, port, &hints, &found) != 0 || !found) fail("unknown host");
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0) fail("connect");
  freeaddrinfo(found);
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

int listen_on(const char* port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(uint16_t(atoi(port)));
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(fd, 128) != 0) fail("listen");
  return fd;
}

int accept_on(int listener) {
  int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) fail("accept");
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

bool send_all(int fd, const void* data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t sent = send(fd, static_cast<const char*>(data) + done, bytes - done, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    done += size_t(sent);
  }
  return true;
}

bool receive_all(int fd, void* data, size_t bytes, int flags = MSG_WAITALL) {
  for (size_t done = 0; done < bytes;) {
    ssize_t got = recv(fd, static_cast<char*>(data) + done, bytes - done, flags);
    if (got > 0) done += size_t(got);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
    if (got < 0) sched_yield();
  }
  return true;
}

// --- Relay --------------------------------------------------------------------------------------------------------------

// The two sockets of a passed-on connection; closed when both directions have ended.
struct Sockets {
  int from_client = -1, to_server = -1;
  ~Sockets() {
    close(from_client);
    close(to_server);
  }
};

// One direction of one connection.
struct Flow {
  struct Piece {
    Clock::time_point due;
    std::vector<char> bytes;
    size_t sent = 0;
  };
  std::shared_ptr<Sockets> sockets;
  int in, out;
  std::deque<Piece> held;
  bool blocked = false;  // the line takes no more
  bool ended = false;    // `in` is at its end

  // False when all is over.
  bool step(std::vector<char>& scratch, microseconds delay) {
    if (!ended && !blocked) {
      ssize_t got = recv(in, scratch.data(), scratch.size(), MSG_DONTWAIT);
      if (got > 0) {
        held.push_back({Clock::now() + delay, {scratch.begin(), scratch.begin() + got}, 0});
      } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        ended = true;
      }
    }
    blocked = false;
    while (!held.empty() && held.front().due <= Clock::now()) {
      Piece& piece = held.front();
      ssize_t sent = send(out, piece.bytes.data() + piece.sent, piece.bytes.size() - piece.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      blocked = sent < 0 && (errno == EAGAIN || errno == EINTR);
      if (blocked) break;
      if (sent < 0) {
        shutdown(in, SHUT_RDWR);
        return false;
      }
      piece.sent += size_t(sent);
      if (piece.sent < piece.bytes.size()) break;
      held.pop_front();
    }
    if (!ended || !held.empty()) return true;
    shutdown(out, SHUT_WR);
    return false;
  }
};

class Direction {
 public:
  explicit Direction(microseconds delay) : delay_(delay) { std::thread([this] { run(); }).detach(); }
  void add(Flow flow) {
    std::lock_guard guard(mutex_);
    fresh_.push_back(std::move(flow));
    any_ = true;
  }

 private:
  void run() {
    std::list<Flow> flows;
    std::vector<char> scratch(kChunk);
    for (;;) {
      if (any_.exchange(false)) {
        std::lock_guard guard(mutex_);
        flows.splice(flows.end(), fresh_);
      }
      flows.remove_if([&](Flow& flow) { return !flow.step(scratch, delay_); });
      if (flows.empty()) std::this_thread::sleep_for(microseconds(200));
      sched_yield();
    }
  }

  const microseconds delay_;
  std::mutex mutex_;
  std::list<Flow> fresh_;
  std::atomic<bool> any_{false};
};

int relay(const char* port, const char* host, const char* server_port, const char* delay_us) {
  const microseconds delay(atol(delay_us));
  auto& up = *new Direction(delay);
  auto& down = *new Direction(delay);
  for (int listener = listen_on(port);;) {
    auto sockets = std::make_shared<Sockets>();
    sockets->from_client = accept_on(listener);
    sockets->to_server = connect_to(host, server_port);
    up.add({sockets, sockets->from_client, sockets->to_server, {}, false, false});
    down.add({sockets, sockets->to_server, sockets->from_client, {}, false, false});
  }
}

// --- Measuring ----------------------------------------------------------------------------------------------------------

// What a connection is for; its first byte.
enum class Task : char { kPing = 'p', kUp = 'u', kDown = 'd', kMove = 'm' };

// The server's end of a connection of `move`: its share of the bytes, then a byte for each time it is to be moved.
void serve_moves(int fd) {
  uint64_t share;
  if (!receive_all(fd, &share, sizeof share)) return;
  std::vector<char> memory(share);
  for (char way; receive_all(fd, &way, 1);) {
    if (Task(way) == Task::kDown ? !send_all(fd, memory.data(), share) : !receive_all(fd, memory.data(), share) || !send_all(fd, &way, 1)) return;
  }
}

void serve_one(int fd) {
  std::vector<char> buffer(1 << 20);
  char task = 0;
  if (receive_all(fd, &task, 1)) {
    switch (Task(task)) {
      case Task::kPing:
        while (receive_all(fd, buffer.data(), kPingBytes, MSG_DONTWAIT) && send_all(fd, buffer.data(), kPingBytes)) {
        }
        break;
      case Task::kUp:
        while (recv(fd, buffer.data(), buffer.size(), 0) > 0) {
        }
        send_all(fd, &task, 1);  // all of it is here
        break;
      case Task::kDown:
        while (send_all(fd, buffer.data(), buffer.size())) {
        }
        break;
      case Task::kMove:
        serve_moves(fd);
        break;
    }
  }
  close(fd);
}

int serve(const char* port) {
  for (int listener = listen_on(port);;) std::thread(serve_one, accept_on(listener)).detach();
}

int open_task(const char* host, const char* port, Task task) {
  int fd = connect_to(host, port);
  send_all(fd, &task, 1);
  return fd;
}

double ping_us(const char* host, const char* port) {
  int fd = open_task(host, port, Task::kPing);
  char bytes[kPingBytes] = {};
  std::vector<double> times;
  for (int i = 0; i < kPings; i++) {
    const auto before = Clock::now();
    if (!send_all(fd, bytes, sizeof bytes) || !receive_all(fd, bytes, sizeof bytes, MSG_DONTWAIT)) fail("ping");
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - before).count());
  }
  close(fd);
  std::nth_element(times.begin(), times.begin() + kPings / 2, times.end());
  return times[kPings / 2];
}

double rate_gb_s(const char* host, const char* port, Task task, double seconds) {
  std::atomic<bool> over{false};
  std::atomic<uint64_t> moved{0};
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  for (int i = 0; i < kConnections; i++) {
    threads.emplace_back([&] {
      int fd = open_task(host, port, task);
      std::vector<char> buffer(1 << 20);
      while (!over) {
        ssize_t count = task == Task::kUp ? send(fd, buffer.data(), buffer.size(), MSG_NOSIGNAL) : recv(fd, buffer.data(), buffer.size(), 0);
        if (count <= 0) break;
        moved += uint64_t(count);
      }
      shutdown(fd, SHUT_WR);
      if (task == Task::kUp) receive_all(fd, buffer.data(), 1);
      close(fd);
    });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  over = true;
  for (auto& thread : threads) thread.join();
  return double(moved) / std::chrono::duration<double>(Clock::now() - start).count() / 1e9;
}

// Every connection moves its share, then all begin again.
double moves_gb_s(const char* host, const char* port, const std::vector<Task>& ways, size_t bytes, double seconds) {
  const uint64_t share = bytes / kConnections;
  const int count = int(ways.size()) * kConnections;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  std::atomic<bool> over{false};
  int rounds = -1;  // the first one warms up
  Clock::time_point start;
  std::barrier together(count, [&]() noexcept {
    if (++rounds == 0) start = Clock::now();
    over = Clock::now() >= end && rounds > 0;
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < count; i++) {
    threads.emplace_back([&, way = char(ways[size_t(i / kConnections)])] {
      int fd = open_task(host, port, Task::kMove);
      std::vector<char> memory(share);
      if (!send_all(fd, &share, sizeof share)) fail("move");
      for (char answer;; together.arrive_and_wait()) {
        if (over) break;
        const bool moved = send_all(fd, &way, 1) && (Task(way) == Task::kDown ? receive_all(fd, memory.data(), share)
                                                                               : send_all(fd, memory.data(), share) && receive_all(fd, &answer, 1));
        if (!moved) fail("move");
      }
      close(fd);
    });
  }
  for (auto& thread : threads) thread.join();
  return double(share) * count * rounds / std::chrono::duration<double>(Clock::now() - start).count() / 1e9;
}

int move(const char* host, const char* port, const char* bytes_text, double seconds) {
  const size_t bytes = strtoull(bytes_text, nullptr, 10);
  for (auto& ways : {std::vector{Task::kUp}, {Task::kDown}, {Task::kUp, Task::kDown}})
    printf("%.3f ", moves_gb_s(host, port, ways, bytes, seconds));
  puts("");
  return 0;
}

int measure(const char* host, const char* port, double seconds) {
  const double rtt = ping_us(host, port);
  const double up = rate_gb_s(host, port, Task::kUp, seconds);
  printf("%.1f %.3f %.3f\n", rtt, up, rate_gb_s(host, port, Task::kDown, seconds));
  return 0;
}

}  // namespace

int main(int count, char** words) {
  const std::string what = count > 1 ? words[1] : "";
  if (what == "relay" && count == 6) return relay(words[2], words[3], words[4], words[5]);
  if (what == "serve" && count == 3) return serve(words[2]);
  if (what == "measure" && count >= 4) return measure(words[2], words[3], count > 4 ? atof(words[4]) : 1.0);
  if (what == "move" && count >= 5) return move(words[2], words[3], words[4], count > 5 ? atof(words[5]) : 0.5);
  fprintf(stderr,
          "line relay LISTEN_PORT HOST PORT DELAY_US | line serve PORT | line measure HOST PORT [SECONDS] | line move HOST PORT BYTES [SECONDS]\n");
  return 2;
}
