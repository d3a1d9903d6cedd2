// Latency, message rate, bulk bandwidth and processor time of every transport, each beside the plain program that bounds it: a
// ping-pong over one socket, and 1 MiB writes over as many sockets as the transport has bulk channels.
//
//   transport_bench [SECONDS_PER_MEASUREMENT]
//   BF_TEST_RDMA=ADDRESS transport_bench     rdma too, over the address of this host that has it
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/log.h"
#include "tests/contract/link_pair.h"
#include "transport/rdma.h"

namespace bf::transport::test {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

double g_seconds = 1.0;

// Links worth measuring here.
std::vector<Kind> measured() {
  std::vector<Kind> kinds{Kind::kTcp4, Kind::kTls, Kind::kShm};
  if (missing(Kind::kRdma).empty()) kinds.push_back(Kind::kRdma);
  kinds.push_back(Kind::kLoopback);
  return kinds;
}

// Of all threads of this process, which holds both ends.
double cpu_seconds() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return double(use.ru_utime.tv_sec + use.ru_stime.tv_sec) + double(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

double thread_cpu_seconds() {
  timespec use{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &use);
  return double(use.tv_sec) + double(use.tv_nsec) / 1e9;
}

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Status send_bytes(Stream& stream, std::span<std::byte> bytes) {
  iovec part{bytes.data(), bytes.size()};
  return stream.send(std::span(&part, 1));
}

struct Latency {
  double median_us = 0;
  double p99_us = 0;
  double cpu_us = 0;  // of both ends, per round; not measured: 0
};

Latency summarise(std::vector<double>& rounds_us) {
  if (rounds_us.empty()) return {};
  std::sort(rounds_us.begin(), rounds_us.end());
  return {rounds_us[rounds_us.size() / 2], rounds_us[rounds_us.size() * 99 / 100]};
}

Latency stream_latency(Kind kind, microseconds spin) {
  Pair pair = make_pair(kind);
  std::thread echo([&] {
    std::byte buffer[64];
    while (receive_exactly(pair.worker->calls(), buffer, spin))
      if (!send_bytes(pair.worker->calls(), buffer).ok()) break;
  });
  std::byte buffer[64] = {};
  std::vector<double> rounds_us;
  double cpu_before = cpu_seconds();
  for (auto start = Clock::now(); since(start) < g_seconds;) {
    auto before = Clock::now();
    if (!send_bytes(pair.client->calls(), buffer).ok() || !receive_exactly(pair.client->calls(), buffer, spin)) break;
    rounds_us.push_back(since(before) * 1e6);
  }
  double cpu_us = (cpu_seconds() - cpu_before) / double(std::max<size_t>(rounds_us.size(), 1)) * 1e6;
  pair.client->shut();
  echo.join();
  Latency latency = summarise(rounds_us);
  latency.cpu_us = cpu_us;
  return latency;
}

bool socket_receive(int fd, std::byte* out, size_t bytes, int flags) {
  for (size_t done = 0; done < bytes;) {
    ssize_t got = recv(fd, out + done, bytes - done, flags);
    if (got > 0) done += size_t(got);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
  }
  return true;
}

Latency socket_latency(Kind kind, bool spin) {
  Sockets sockets = connect_sockets(kind, 1);
  int client = sockets.ends[0][0].get(), worker = sockets.ends[1][0].get(), flags = spin ? MSG_DONTWAIT : 0;
  std::thread echo([=] {
    std::byte buffer[64];
    while (socket_receive(worker, buffer, sizeof buffer, flags)) send(worker, buffer, sizeof buffer, MSG_NOSIGNAL);
  });
  std::byte buffer[64] = {};
  std::vector<double> rounds_us;
  for (auto start = Clock::now(); since(start) < g_seconds;) {
    auto before = Clock::now();
    send(client, buffer, sizeof buffer, MSG_NOSIGNAL);
    if (!socket_receive(client, buffer, sizeof buffer, flags)) break;
    rounds_us.push_back(since(before) * 1e6);
  }
  shutdown(client, SHUT_RDWR);
  echo.join();
  return summarise(rounds_us);
}

struct Rate {
  double per_s = 0;
  double cpu_us = 0;  // what one send() costs the thread that calls
};

// Of messages of `bytes` each, one way.
Rate message_rate(Kind kind, size_t bytes) {
  Pair pair = make_pair(kind);
  std::thread reader([&] {
    std::vector<std::byte> buffer(256 << 10);
    for (;;) {
      await_ready(pair.worker->calls(), microseconds(20));
      auto got = pair.worker->calls().receive(buffer);
      if (!got.ok() || got.value() == 0) break;
    }
  });
  std::vector<std::byte> message(bytes);
  uint64_t count = 0;
  auto start = Clock::now();
  double cpu_before = thread_cpu_seconds();
  while (count % 256 != 0 || since(start) < g_seconds) {
    if (!send_bytes(pair.client->calls(), message).ok()) break;
    count++;
  }
  Rate rate{double(count) / since(start), (thread_cpu_seconds() - cpu_before) / double(std::max<uint64_t>(count, 1)) * 1e6};
  pair.client->shut();
  reader.join();
  return rate;
}

double socket_message_rate(size_t bytes) {
  Sockets sockets = connect_sockets(Kind::kTcp4, 1);
  int client = sockets.ends[0][0].get(), worker = sockets.ends[1][0].get();
  std::thread reader([=] {
    std::vector<std::byte> buffer(256 << 10);
    while (recv(worker, buffer.data(), buffer.size(), 0) > 0) {
    }
  });
  std::vector<std::byte> message(bytes);
  uint64_t count = 0;
  auto start = Clock::now();
  while (count % 256 != 0 || since(start) < g_seconds) {
    if (send(client, message.data(), message.size(), MSG_NOSIGNAL) < 0) break;
    count++;
  }
  double rate = double(count) / since(start);
  shutdown(client, SHUT_RDWR);
  reader.join();
  return rate;
}

// GB/s one way. `place`: into final memory; else from the ring, released at once.
double bulk_bandwidth(Kind kind, uint32_t channels, bool place) {
  constexpr size_t kBytes = 64 << 20;
  std::vector<std::byte> source(kBytes), target(kBytes);
  std::atomic<uint64_t> arrived{0};
  Sink unused, sink;
  SentCounter sent;
  Pair pair = make_pair(kind, channels);
  Bulk& bulk = pair.worker->bulk();
  sink.on_place = [&](const Block& block) { return place ? target.data() + block.offset : nullptr; };
  sink.on_landed = [&](const Block& block, std::byte*) {
    if (!place || !pair.worker->limits().places) bulk.release(block);
    arrived += block.bytes;
    return true;
  };
  pair.client->bulk().start(unused);
  bulk.start(sink);
  int sends = 0;
  auto start = Clock::now();
  while (since(start) < g_seconds) {
    pair.client->bulk().send(1, source.data(), kBytes, sent.callback());
    sends++;
    sent.wait(sends - 1);
  }
  while (arrived < uint64_t(sends) * kBytes) std::this_thread::sleep_for(microseconds(50));
  return double(sends) * kBytes / since(start) / 1e9;
}

// From send() to landed() of one small transfer on an idle link.
// From send() until the last byte has landed, after both sides were idle for `idle`.
Latency bulk_latency(Kind kind, size_t bytes, microseconds idle) {
  std::vector<std::byte> source(bytes);
  std::atomic<uint64_t> arrived{0};  // bytes
  Sink unused, sink;
  SentCounter sent;
  Pair pair = make_pair(kind);
  sink.on_landed = [&](const Block& block, std::byte*) {
    pair.worker->bulk().release(block);
    arrived += block.bytes;
    return true;
  };
  pair.client->bulk().start(unused);
  pair.worker->bulk().start(sink);
  std::vector<double> rounds_us;
  for (auto start = Clock::now(); since(start) < g_seconds;) {
    if (idle.count()) std::this_thread::sleep_for(idle);
    auto before = Clock::now();
    pair.client->bulk().send(1, source.data(), source.size(), sent.callback());
    while (arrived < (rounds_us.size() + 1) * bytes) std::this_thread::yield();
    rounds_us.push_back(since(before) * 1e6);
  }
  return summarise(rounds_us);
}

double socket_bandwidth(uint32_t channels) {
  constexpr size_t kChunk = 1 << 20;
  Sockets sockets = connect_sockets(Kind::kTcp4, channels);
  std::vector<std::byte> source(64 << 20), target(64 << 20);
  std::atomic<uint64_t> arrived{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  auto start = Clock::now();
  for (uint32_t i = 0; i < channels; i++) {
    threads.emplace_back([&, i, fd = sockets.ends[0][i].get()] {
      for (size_t at = i; !over; at = (at + channels) % 64)
        if (send(fd, source.data() + at * kChunk, kChunk, MSG_NOSIGNAL) < 0) break;
      shutdown(fd, SHUT_RDWR);
    });
    threads.emplace_back([&, i, fd = sockets.ends[1][i].get()] {
      for (size_t at = i;; at = (at + channels) % 64) {
        ssize_t got = recv(fd, target.data() + at * kChunk, kChunk, MSG_WAITALL);
        if (got <= 0) break;
        arrived += uint64_t(got);
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(g_seconds));
  over = true;
  for (auto& thread : threads) thread.join();
  return double(arrived) / since(start) / 1e9;
}

void print_latency(const std::string& what, Latency latency) {
  fmt::print("{:<44} median {:8.1f} us   99% {:8.1f} us", what, latency.median_us, latency.p99_us);
  if (latency.cpu_us > 0) fmt::print("   processor {:8.1f} us", latency.cpu_us);
  fmt::print("\n");
}

void run() {
  fmt::print("round trip of 64 bytes\n");
  // Plain and ours alternate, so that both see the same neighbours.
  for (bool spin : {false, true}) {
    const char* how = spin ? "spinning" : "sleeping";
    microseconds limit(spin ? 1000 : 0);
    print_latency(fmt::format("  plain tcp socket, {}", how), socket_latency(Kind::kTcp4, spin));
    print_latency(fmt::format("  tcp, {}", how), stream_latency(Kind::kTcp4, limit));
    print_latency(fmt::format("  tcp with TLS, {}", how), stream_latency(Kind::kTls, limit));
    print_latency(fmt::format("  plain unix socket, {}", how), socket_latency(Kind::kShm, spin));
    print_latency(fmt::format("  shm, {}", how), stream_latency(Kind::kShm, limit));
    if (missing(Kind::kRdma).empty()) print_latency(fmt::format("  rdma, {}", how), stream_latency(Kind::kRdma, limit));
  }
  print_latency("  loopback", stream_latency(Kind::kLoopback, microseconds(0)));

  fmt::print("messages one way\n");
  for (size_t bytes : {64u, 4096u}) {
    fmt::print("  {:<42} {:10.0f} /s\n", fmt::format("plain tcp socket, {} bytes", bytes), socket_message_rate(bytes));
    for (Kind kind : measured()) {
      Rate rate = message_rate(kind, bytes);
      fmt::print("  {:<42} {:10.0f} /s   processor {:8.2f} us each\n", fmt::format("{}, {} bytes", name_of(kind), bytes), rate.per_s, rate.cpu_us);
    }
  }

  fmt::print("bulk, one way\n");
  for (uint32_t channels : {1u, 2u, 4u}) {
    fmt::print("  {:<42} {:10.2f} GB/s\n", fmt::format("{} plain tcp sockets", channels), socket_bandwidth(channels));
    for (bool place : {true, false})
      fmt::print("  {:<42} {:10.2f} GB/s\n", fmt::format("tcp, {} channels, {}", channels, place ? "placed" : "ring"),
                 bulk_bandwidth(Kind::kTcp4, channels, place));
  }
  for (bool place : {true, false})
    fmt::print("  {:<42} {:10.2f} GB/s\n", fmt::format("shm, {}", place ? "placed" : "ring"),
               bulk_bandwidth(Kind::kShm, 0, place));
  if (missing(Kind::kRdma).empty()) {
    for (bool place : {true, false})
      fmt::print("  {:<42} {:10.2f} GB/s\n", fmt::format("rdma, {}", place ? "placed" : "ring"),
                 bulk_bandwidth(Kind::kRdma, 0, place));
    Pair pair = make_pair(Kind::kRdma);
    fmt::print("  {:<42} {:10.1f} MiB in {} regions\n", "rdma, registered by both ends", double(rdma_memory().bytes) / (1 << 20), rdma_memory().regions);
  }
  fmt::print("  {:<42} {:10.2f} GB/s\n", "loopback, ring", bulk_bandwidth(Kind::kLoopback, 0, false));

  for (size_t kib : {100, 1024, 16384}) {
    for (int idle_us : {0, 200, 10'000}) {
      fmt::print("one transfer of {} KiB, from send() to landed(), after {} us of silence\n", kib, idle_us);
      for (Kind kind : measured())
        print_latency(fmt::format("  {}", name_of(kind)), bulk_latency(kind, kib << 10, microseconds(idle_us)));
    }
  }
}

}  // namespace
}  // namespace bf::transport::test

int main(int argc, char** argv) {
  if (argc > 1) bf::transport::test::g_seconds = std::max(0.05, atof(argv[1]));
  bf::transport::test::run();
}
