#include "server/daemon/audit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "server/daemon/log.h"

namespace bf::daemon {
namespace {

std::string now() {
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME, &time);
  tm parts{};
  ::gmtime_r(&time.tv_sec, &parts);
  char text[32];
  ::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:03}Z", text, time.tv_nsec / 1'000'000);
}

}  // namespace

Result<Audit> Audit::open(const std::string& path, uint64_t most_bytes) {
  Audit audit;
  audit.path_ = path;
  audit.most_bytes_ = most_bytes;
  if (!path.empty()) BF_RETURN_IF_ERROR(audit.reopen());
  return audit;
}

Status Audit::reopen() {
  file_.reset(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file_) return errno_status("cannot write the audit log " + path_, errno);
  struct stat facts {};
  ::fstat(file_.get(), &facts);
  bytes_ = uint64_t(facts.st_size);
  return {};
}

void Audit::rotate() {
  auto numbered = [&](int number) { return number == 0 ? path_ : path_ + "." + std::to_string(number); };
  for (int number = kFiles; number > 0; number--) ::rename(numbered(number - 1).c_str(), numbered(number).c_str());
  if (Status opened = reopen(); !opened.ok()) log::error("{}", opened.message());
}

void Audit::write(const char* event, const Fields& fields) {
  if (path_.empty()) return;
  nlohmann::ordered_json line = {{"time", now()}, {"event", event}};
  for (auto& [name, value] : fields) std::visit([&, key = name](auto& v) { line[key] = v; }, value);
  std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (bytes_ > 0 && bytes_ + text.size() > most_bytes_) rotate();
  // One write: a line is whole or not there.
  bool written = file_ && ::write(file_.get(), text.data(), text.size()) == ssize_t(text.size());
  if (!written && !failing_) log::error("the audit log {} cannot be written: {}", path_, strerror(errno));
  failing_ = !written;
  if (written) bytes_ += text.size();
}

}  // namespace bf::daemon
