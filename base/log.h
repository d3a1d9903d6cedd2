// Logging for all parts. The level comes from BF_LOG (off, error, warn, info, debug, trace; default: off in the shim and
// softgpu, info in the daemon, set by set_log_level). Lines go to standard error only, never to standard output.
#pragma once

#include <atomic>
#include <string_view>

#include <fmt/format.h>

namespace bf {

enum class LogLevel : int { kTrace, kDebug, kInfo, kWarn, kError, kOff };

void set_log_level(LogLevel level);
// Parses BF_LOG's words; `fallback` for anything else.
LogLevel parse_log_level(std::string_view word, LogLevel fallback);
bool log_enabled(LogLevel level) noexcept;
void log_line(LogLevel level, std::string_view text) noexcept;

}  // namespace bf

#define BF_LOG_AT(level, ...)                                                      \
  do {                                                                             \
    if (::bf::log_enabled(level)) ::bf::log_line(level, ::fmt::format(__VA_ARGS__)); \
  } while (0)
#define BF_TRACE(...) BF_LOG_AT(::bf::LogLevel::kTrace, __VA_ARGS__)
#define BF_DEBUG(...) BF_LOG_AT(::bf::LogLevel::kDebug, __VA_ARGS__)
#define BF_INFO(...) BF_LOG_AT(::bf::LogLevel::kInfo, __VA_ARGS__)
#define BF_WARN(...) BF_LOG_AT(::bf::LogLevel::kWarn, __VA_ARGS__)
#define BF_ERROR(...) BF_LOG_AT(::bf::LogLevel::kError, __VA_ARGS__)
