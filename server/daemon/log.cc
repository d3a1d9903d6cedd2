#include "server/daemon/log.h"

#include <fcntl.h>
#define SPDLOG_FMT_EXTERNAL
#include <spdlog/sinks/ansicolor_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

namespace bf::daemon::log {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) { return spdlog::level::level_enum(int(level)); }
static_assert(int(LogLevel::kTrace) == SPDLOG_LEVEL_TRACE);
static_assert(int(LogLevel::kError) == SPDLOG_LEVEL_ERROR);

}  // namespace

void start(LogLevel level) {
  auto sink = std::make_shared<spdlog::sinks::ansicolor_stderr_sink_st>();
  auto logger = std::make_shared<spdlog::logger>("bfserver", std::move(sink));
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %n[%P] %^%l%$: %v");
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
  set_level(level);
}

void set_level(LogLevel level) { spdlog::set_level(level == LogLevel::kOff ? spdlog::level::off : to_spdlog(level)); }

bool redirect(const std::string& path) {
  int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
  if (fd < 0) return false;
  ::dup2(fd, STDERR_FILENO);
  ::close(fd);
  return true;
}

bool enabled(LogLevel level) { return spdlog::should_log(to_spdlog(level)); }

void write(LogLevel level, const std::string& text) { spdlog::default_logger_raw()->log(to_spdlog(level), text); }

}  // namespace bf::daemon::log
