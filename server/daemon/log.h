// The daemon's log: spdlog, to standard error. Behind functions, so that only log.cc compiles spdlog.
#pragma once

#include <string>

#include "base/log.h"

namespace bf::daemon::log {

// Creates the logger; the level is one of parse_log_level's.
void start(LogLevel level);
void set_level(LogLevel level);
// Sends standard error - ours and later workers' - to the end of a file. Again after SIGHUP, for log rotation.
// False, and nothing changed, if it cannot be opened.
bool redirect(const std::string& path);
bool enabled(LogLevel level);
void write(LogLevel level, const std::string& text);

template <typename... A>
void at(LogLevel level, fmt::format_string<A...> format, A&&... arguments) {
  if (enabled(level)) write(level, fmt::format(format, std::forward<A>(arguments)...));
}
template <typename... A>
void debug(fmt::format_string<A...> format, A&&... arguments) {
  at(LogLevel::kDebug, format, std::forward<A>(arguments)...);
}
template <typename... A>
void info(fmt::format_string<A...> format, A&&... arguments) {
  at(LogLevel::kInfo, format, std::forward<A>(arguments)...);
}
template <typename... A>
void warn(fmt::format_string<A...> format, A&&... arguments) {
  at(LogLevel::kWarn, format, std::forward<A>(arguments)...);
}
template <typename... A>
void error(fmt::format_string<A...> format, A&&... arguments) {
  at(LogLevel::kError, format, std::forward<A>(arguments)...);
}

}  // namespace bf::daemon::log
