// One write(2) per line: safe with many threads and processes on one descriptor, and without static destructors, so it
// also works in the shim before main and after exit (which is why this is not a spdlog sink; the daemon uses spdlog).
#include "base/log.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

namespace bf {
namespace {

std::atomic<int> g_level{-1};  // -1: BF_LOG not read yet

constexpr const char* kNames[] = {"trace", "debug", "info", "warn", "error", "off"};

int current_level() noexcept {
  int level = g_level.load(std::memory_order_relaxed);
  if (level < 0) {
    const char* word = getenv("BF_LOG");
    level = int(parse_log_level(word ? word : "", LogLevel::kOff));
    g_level.store(level, std::memory_order_relaxed);
  }
  return level;
}

}  // namespace

LogLevel parse_log_level(std::string_view word, LogLevel fallback) {
  for (int i = 0; i <= int(LogLevel::kOff); i++)
    if (word == kNames[i]) return LogLevel(i);
  return fallback;
}

void set_log_level(LogLevel level) { g_level.store(int(level), std::memory_order_relaxed); }
bool log_enabled(LogLevel level) noexcept { return int(level) >= current_level() && level != LogLevel::kOff; }

void log_line(LogLevel level, std::string_view text) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  tm local;
  gmtime_r(&now.tv_sec, &local);
  fmt::memory_buffer line;
  fmt::format_to(std::back_inserter(line), "{:02}:{:02}:{:02}.{:03} backfield[{}] {}: {}\n", local.tm_hour, local.tm_min,
                 local.tm_sec, now.tv_nsec / 1'000'000, getpid(), kNames[int(level)], text);
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace bf
