// Links between two threads: a round trip, messages one way, a bulk transfer. transport_bench says the same beside plain
// sockets.
#include <benchmark/benchmark.h>

#include <atomic>
#include <thread>

#include "tests/contract/link_pair.h"

namespace bf::transport::test {
namespace {

constexpr Kind kKinds[] = {Kind::kTcp4, Kind::kTls, Kind::kShm, Kind::kLoopback};

Kind kind_of(benchmark::State& state) {
  const Kind kind = kKinds[state.range(0)];
  state.SetLabel(name_of(kind));
  return kind;
}

bool send_bytes(Stream& stream, std::span<std::byte> bytes) {
  iovec part{bytes.data(), bytes.size()};
  return stream.send(std::span(&part, 1)).ok();
}

void round_trip(benchmark::State& state) {
  constexpr std::chrono::microseconds kSpin{200};
  Pair pair = make_pair(kind_of(state));
  std::thread echo([&] {
    std::byte buffer[64];
    while (receive_exactly(pair.worker->calls(), buffer, kSpin) && send_bytes(pair.worker->calls(), buffer)) {
    }
  });
  std::byte buffer[64] = {};
  for (auto _ : state)
    if (!send_bytes(pair.client->calls(), buffer) || !receive_exactly(pair.client->calls(), buffer, kSpin)) state.SkipWithError("the link failed");
  pair.client->shut();
  echo.join();
}
BENCHMARK(round_trip)->DenseRange(0, 3)->UseRealTime();

void message(benchmark::State& state) {
  Pair pair = make_pair(kind_of(state));
  std::thread reader([&] {
    std::vector<std::byte> buffer(256 << 10);
    for (auto got = pair.worker->calls().receive(buffer); got.ok() && *got > 0; got = pair.worker->calls().receive(buffer)) {
    }
  });
  std::vector<std::byte> bytes(size_t(state.range(1)));
  for (auto _ : state)
    if (!send_bytes(pair.client->calls(), bytes)) state.SkipWithError("the link failed");
  state.SetItemsProcessed(int64_t(state.iterations()));
  pair.client->shut();
  reader.join();
}
BENCHMARK(message)->ArgsProduct({{0, 1, 2, 3}, {64, 4096}})->UseRealTime();

void transfer(benchmark::State& state) {
  std::vector<std::byte> source(size_t(state.range(1)));
  std::atomic<uint64_t> arrived{0};
  Sink unused, sink;
  SentCounter sent;
  Pair pair = make_pair(kind_of(state));
  sink.on_landed = [&](const Block& block, std::byte*) {
    pair.worker->bulk().release(block);
    arrived += block.bytes;
    return true;
  };
  pair.client->bulk().start(unused);
  pair.worker->bulk().start(sink);
  uint64_t wanted = 0;
  for (auto _ : state) {
    pair.client->bulk().send(1, source.data(), source.size(), sent.callback());
    wanted += source.size();
    while (arrived < wanted) std::this_thread::yield();
  }
  state.SetBytesProcessed(int64_t(wanted));
}
BENCHMARK(transfer)->ArgsProduct({{0, 1, 2, 3}, {1 << 20, 32 << 20}})->UseRealTime();

}  // namespace
}  // namespace bf::transport::test
