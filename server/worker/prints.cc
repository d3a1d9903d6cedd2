#include "server/worker/prints.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/limits.h"
#include "base/log.h"

namespace bf::server {
namespace {

constexpr size_t kTruncateBytes = 16 << 20;  // then what was passed on is given back to the system

}  // namespace

Result<Prints> Prints::capture() {
  const int log = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  if (log < 0) return errno_status("saving standard error", errno);
  set_log_fd(log);
  std::array<File, 2> files;
  for (int i = 0; i < 2; ++i) {
    files[i].memory = Fd(memfd_create(i == 0 ? "stdout" : "stderr", MFD_CLOEXEC));
    if (!files[i].memory) return errno_status("making a file in memory", errno);
    // Append mode: the driver's writes always go to the end, also after we truncate.
    if (fcntl(files[i].memory.get(), F_SETFL, O_APPEND) < 0 || dup2(files[i].memory.get(), i + 1) < 0)
      return errno_status("capturing standard output", errno);
  }
  return Prints(std::move(files));
}

void Prints::collect(const std::function<void(int, std::span<const std::byte>)>& send) {
  fflush(stdout);
  for (int i = 0; i < 2; ++i) {
    File& file = files_[size_t(i)];
    struct stat info;
    if (fstat(file.memory.get(), &info) < 0 || size_t(info.st_size) <= file.sent) continue;
    std::byte buffer[16 << 10];
    while (file.sent < size_t(info.st_size)) {
      const ssize_t got = pread(file.memory.get(), buffer, std::min(sizeof(buffer), size_t(info.st_size) - file.sent),
                                off_t(file.sent));
      if (got <= 0) break;
      file.sent += size_t(got);
      send(i + 1, {buffer, size_t(got)});
    }
    // Whatever is printed between reading and truncating would be lost: only this thread synchronises right now, or the
    // text is large enough that the driver's own buffer would have dropped some as well.
    if (file.sent > kTruncateBytes && ftruncate(file.memory.get(), 0) == 0) file.sent = 0;
  }
}

}  // namespace bf::server
