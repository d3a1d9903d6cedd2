// The audit log: who borrowed what, when, how much, and how it ended. One JSON object per line, only ever appended;
// rotated by size, FILE to FILE.1 and so on.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/fd.h"
#include "base/status.h"

namespace bf::daemon {

class Audit {
 public:
  using Value = std::variant<std::string, int64_t>;
  using Fields = std::vector<std::pair<const char*, Value>>;

  static constexpr uint64_t kBytes = 16 << 20;  // of one file
  static constexpr int kFiles = 8;              // old ones that are kept

  // An empty path: nothing is written.
  static Result<Audit> open(const std::string& path, uint64_t most_bytes = kBytes);
  // {"time": ..., "event": event, ...}. A failure is logged, once for as long as it lasts; nobody waits for it.
  void write(const char* event, const Fields& fields);

 private:
  Status reopen();
  void rotate();

  std::string path_;
  Fd file_;
  uint64_t bytes_ = 0;
  uint64_t most_bytes_ = kBytes;
  bool failing_ = false;
};

}  // namespace bf::daemon
