// What a call costs before and after the wire: encoding, splitting the stream into frames, finding changed memory.
#include <benchmark/benchmark.h>

#include <vector>

#include "api/remote.h"
#include "proto/api/wire.h"
#include "proto/mirror.h"
#include "server/worker/receive.h"

// A channel that takes every frame and sends none.
namespace bf::client {

namespace {
std::byte g_body[limits::kBodyBytes];
}

constinit std::atomic<uint32_t> g_gate{0};
CUresult enter_slow() noexcept { return CUDA_SUCCESS; }
CUresult denied(const char*, std::atomic<uint32_t>&) noexcept { return CUDA_ERROR_NOT_SUPPORTED; }
void log_refusal(const char*, CUresult) noexcept {}
CUresult begin(size_t, std::byte*& body) noexcept {
  body = g_body;
  return CUDA_SUCCESS;
}
CUresult finish_post(uint16_t, uint16_t, size_t body_bytes, const Payload&) noexcept {
  benchmark::DoNotOptimize(body_bytes);
  benchmark::ClobberMemory();
  return CUDA_SUCCESS;
}
CUresult finish_call(uint16_t, uint16_t, size_t, const Payload&, Reply&) noexcept { return CUDA_SUCCESS; }
CUresult malformed_reply(const char*) noexcept { return CUDA_ERROR_UNKNOWN; }
uint64_t make_handle(HandleKind) noexcept { return uint64_t{1} << 42; }
void drop_handle(uint64_t) noexcept {}

}  // namespace bf::client

namespace bf {
namespace {

void encode_launch(benchmark::State& state) {
  std::vector<std::byte> parameters(size_t(state.range(0)));
  for (auto _ : state) {
    client::post_cuLaunchKernel(reinterpret_cast<CUfunction>(uint64_t{3} << 42), 256, 1, 1, 128, 1, 1, 0,
                                reinterpret_cast<CUstream>(uint64_t{5} << 42), nullptr, nullptr, parameters);
  }
}
BENCHMARK(encode_launch)->Arg(8)->Arg(64)->Arg(512);

// A stream of small frames as the reader gets it, in pieces of 64 KiB.
void split_frames(benchmark::State& state) {
  const FrameHeader header{64, 0, 256, kPost, 0};
  std::vector<std::byte> stream;
  while (stream.size() + sizeof header + header.body_bytes <= 64 << 10) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&header);
    stream.insert(stream.end(), bytes, bytes + sizeof header);
    stream.resize(stream.size() + header.body_bytes);
  }
  server::BlockPool pool;
  server::FrameSplitter splitter(pool);
  int64_t frames = 0;
  for (auto _ : state) {
    for (std::span<const std::byte> left(stream); !left.empty();) {
      auto space = splitter.space();
      const size_t count = std::min(space.size(), left.size());
      std::copy_n(left.begin(), count, space.begin());
      splitter.filled(count);
      left = left.subspan(count);
      server::Frame frame;
      for (auto more = splitter.next(frame); more.ok() && *more; more = splitter.next(frame), ++frames) frame.block->release(1);
    }
  }
  state.SetItemsProcessed(frames);
}
BENCHMARK(split_frames);

// Comparing mirrored memory of which every page, or none, has changed.
void collect_changes(benchmark::State& state) {
  constexpr size_t kBytes = 1 << 20;
  std::vector<std::byte> memory(kBytes + kMirrorPage);
  const auto address = (reinterpret_cast<uint64_t>(memory.data()) + kMirrorPage - 1) / kMirrorPage * kMirrorPage;
  auto* begin = reinterpret_cast<std::byte*>(address);
  auto mirror = Mirror::make(begin, address, kBytes);
  PatchBuffer patches(kBytes * 2);
  uint8_t value = 0;
  for (auto _ : state) {
    if (state.range(0)) {
      state.PauseTiming();
      ++value;
      for (size_t page = 0; page < kBytes; page += kMirrorPage) begin[page] = std::byte(value);
      state.ResumeTiming();
    }
    patches.clear();
    benchmark::DoNotOptimize(mirror->collect(address, address + kBytes, patches));
  }
  state.SetBytesProcessed(int64_t(state.iterations()) * int64_t(kBytes));
}
BENCHMARK(collect_changes)->ArgName("changed")->Arg(0)->Arg(1);

}  // namespace
}  // namespace bf
