#include "client/watch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/fd.h"
#include "client/trace.h"
#include "proto/stats.h"

namespace bf::client {

constinit std::atomic<uint32_t> g_watched{0};

namespace {

StatsMemory* g_stats = nullptr;  // written before g_watched says so

// What the calling thread's call has done so far.
struct Watched {
  uint32_t depth = 0;  // stubs within stubs belong to the outermost
  uint32_t symbol = 0;
  FunctionCounters* block = nullptr;
  TraceCall call;
  uint32_t posts = 0, round_trips = 0;
  bool waits = false;
};
constinit thread_local Watched t_watched __attribute__((tls_model("initial-exec")));

void add(std::atomic<uint64_t>& counter, uint64_t value) {
  if (value) counter.fetch_add(value, std::memory_order_relaxed);
}

void count(Watched& thread) {
  if (!thread.block) {
    const uint32_t block = g_stats->next_block.fetch_add(1, std::memory_order_relaxed) % StatsMemory::kBlocks;
    thread.block = g_stats->blocks[block];
  }
  FunctionCounters& function = thread.block[thread.symbol];
  add(function.calls, 1);
  add(function.local, thread.posts + thread.round_trips == 0);
  add(function.posts, thread.posts);
  add(function.round_trips, thread.round_trips);
  add(function.wait_ns, thread.call.wait_ns);
  add(function.bytes_up, thread.call.bytes_up);
  add(function.bytes_down, thread.call.bytes_down);
}

bool map_stats(const char* path) {
  Fd file(open(path, O_RDWR | O_CLOEXEC));
  if (!file) return false;
  void* memory = mmap(nullptr, sizeof(StatsMemory), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file.get(), 0);
  if (memory == MAP_FAILED) return false;
  auto* stats = static_cast<StatsMemory*>(memory);
  if (lseek(file.get(), 0, SEEK_END) != off_t(sizeof(StatsMemory)) || stats->magic.load() != StatsMemory::kMagic) {
    munmap(memory, sizeof(StatsMemory));
    return false;
  }
  for (uint32_t i = 0; i < kSymbols && i < StatsMemory::kFunctions; ++i)
    strncpy(stats->names[i], symbol_name(i), StatsMemory::kNameBytes - 1);
  stats->processes.fetch_add(1);
  g_stats = stats;
  return true;
}

// When the shim is loaded, so that the first call counts, too.
__attribute__((constructor)) void begin_watching() {
  uint32_t watched = 0;
  if (const char* path = getenv("BF_STATS"); path && *path && map_stats(path)) watched |= kWatchStats;
  if (const char* path = getenv("BF_TRACE"); path && *path && Trace::instance().open(path)) watched |= kWatchTrace;
  g_watched.store(watched);
}

}  // namespace

void watch_enter(uint32_t symbol) noexcept {
  Watched& thread = t_watched;
  if (thread.depth++ > 0) return;
  thread.symbol = symbol;
  thread.posts = thread.round_trips = 0;
  thread.call = {};
  if (g_watched.load(std::memory_order_relaxed) & kWatchTrace) thread.call.begin_ns = monotonic_ns();
}

void watch_leave() noexcept {
  Watched& thread = t_watched;
  if (--thread.depth > 0) return;
  const uint32_t watched = g_watched.load(std::memory_order_relaxed);
  if (watched & kWatchStats) count(thread);
  if (!(watched & kWatchTrace) || thread.posts + thread.round_trips == 0) return;  // questions would be most of it
  thread.call.end_ns = monotonic_ns();
  thread.call.name = symbol_name(thread.symbol);
  thread.call.posts = thread.posts;
  thread.call.round_trips = thread.round_trips;
  Trace::instance().add(thread.call);
}

void watch_sent(size_t bytes, bool answered) noexcept {
  Watched& thread = t_watched;
  (answered ? thread.round_trips : thread.posts)++;
  thread.call.bytes_up += bytes;
}

void watch_bytes_up(size_t bytes) noexcept { t_watched.call.bytes_up += bytes; }
void watch_bytes_down(size_t bytes) noexcept { t_watched.call.bytes_down += bytes; }

void WatchWait::begin(const char* what) noexcept {
  if (std::exchange(t_watched.waits, true)) return;  // within another wait, which counts
  what_ = what;
  begin_ns_ = monotonic_ns();
}

void WatchWait::end() const noexcept {
  const uint64_t end_ns = monotonic_ns();
  t_watched.waits = false;
  t_watched.call.wait_ns += end_ns - begin_ns_;
  if (g_watched.load(std::memory_order_relaxed) & kWatchTrace)
    Trace::instance().add({.name = what_, .begin_ns = begin_ns_, .end_ns = end_ns});
}

void stop_watching() noexcept { g_watched.store(0); }

}  // namespace bf::client
