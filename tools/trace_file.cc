#include "tools/trace_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string_view>

namespace bf::tools {
namespace {

// One array, whose elements processes append each with its comma; the last one is ours, and has none.
constexpr std::string_view kBegin = "[\n";
constexpr std::string_view kEnd = R"({"name":"bf_end","ph":"M","pid":0,"tid":0,"args":{}}]
)";

bool put(int file, std::string_view text) { return ::write(file, text.data(), text.size()) == ssize_t(text.size()); }

}  // namespace

Result<TraceFile> TraceFile::begin() {
  TraceFile trace;
  const char* name = getenv("BF_TRACE");
  if (!name || !*name) return trace;
  std::error_code error;
  const std::string path = std::filesystem::absolute(name, error).string();
  trace.file_ = Fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644));
  if (!trace.file_ || !put(trace.file_.get(), kBegin))
    return errno_status("cannot write the trace " + path + " (BF_TRACE)", errno);
  setenv("BF_TRACE", path.c_str(), 1);
  return trace;
}

void TraceFile::end() {
  if (file_) put(file_.get(), kEnd);
}

}  // namespace bf::tools
