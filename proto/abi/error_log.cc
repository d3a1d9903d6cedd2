#include "proto/abi/error_log.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <string>

#include "proto/abi/error.h"

namespace bf::abi {
namespace {

constexpr uint32_t kEntries = 128;  // at most 25600 bytes of text, as the driver's own log
constexpr size_t kLineBytes = 200;
constexpr const char* kTruncated = "[older messages are gone]\n";

struct Entry {
  const char* symbol = nullptr;
  CUresult result = CUDA_SUCCESS;
  timespec time{};
  int thread = 0;
};

struct Callback {
  CUlogsCallback function = nullptr;
  void* user = nullptr;
};

struct Log {
  std::mutex mutex;
  std::array<Entry, kEntries> entries;
  CUlogIterator end = 0;  // entries so far: an iterator is the number of one
  uint64_t last_callback = 0;
  std::map<uint64_t, Callback> callbacks;
};

Log& instance() {
  static auto* log = new Log;
  return *log;
}

// Written when somebody reads it: errors are frequent where a program asks whose an address is.
std::string line_of(const Entry& entry) {
  const char *name = "an unknown error", *text = "";
  error_name(entry.result, &name);
  error_string(entry.result, &text);
  tm local{};
  localtime_r(&entry.time.tv_sec, &local);
  char line[kLineBytes];
  std::snprintf(line, sizeof line, "[%02d:%02d:%02d.%03d][%d][CUDA][E] %s returned %s: %s", local.tm_hour, local.tm_min,
                local.tm_sec, int(entry.time.tv_nsec / 1000000), entry.thread, entry.symbol, name, text);
  return std::string(line) + '\n';
}

// The lines from the iterator on (null: all) that fit into `most` bytes; of too many the newest, behind a line that says so.
// Moves the iterator to the end. *any: there were some.
std::string take(CUlogIterator* iterator, size_t most, bool* any) {
  Log& log = instance();
  std::lock_guard guard(log.mutex);
  const uint32_t kept = std::min(log.end, kEntries);
  const uint32_t wanted = iterator ? log.end - *iterator : log.end;  // an iterator from elsewhere: all
  uint32_t count = std::min(wanted, kept);
  *any = count > 0;
  std::string text;
  for (uint32_t i = count; i > 0; --i) text += line_of(log.entries[(log.end - i) % kEntries]);
  bool lost = wanted > kept;
  const size_t note = std::strlen(kTruncated);
  while (count > 0 && text.size() + (lost ? note : 0) > most) {
    text.erase(0, text.find('\n') + 1);
    lost = true;
    --count;
  }
  if (iterator) *iterator = log.end;
  return lost && count > 0 ? kTruncated + text : text;
}

}  // namespace

void log_error(const char* symbol, CUresult result) {
  static thread_local const int thread = int(syscall(SYS_gettid));
  Entry entry{symbol, result, {}, thread};
  clock_gettime(CLOCK_REALTIME_COARSE, &entry.time);
  Log& log = instance();
  std::map<uint64_t, Callback> callbacks;
  {
    std::lock_guard guard(log.mutex);
    log.entries[log.end++ % kEntries] = entry;
    if (log.callbacks.empty()) return;
    callbacks = log.callbacks;
  }
  std::string line = line_of(entry);
  for (auto& [id, callback] : callbacks) callback.function(callback.user, CU_LOG_LEVEL_ERROR, line.data(), line.size());
}

CUresult register_log_callback(CUlogsCallback callback, void* user, CUlogsCallbackHandle* handle) {
  if (!callback) return CUDA_ERROR_INVALID_VALUE;
  Log& log = instance();
  std::lock_guard guard(log.mutex);
  log.callbacks[++log.last_callback] = {callback, user};
  if (handle) *handle = reinterpret_cast<CUlogsCallbackHandle>(log.last_callback);
  return CUDA_SUCCESS;
}

CUresult unregister_log_callback(CUlogsCallbackHandle handle) {
  Log& log = instance();
  std::lock_guard guard(log.mutex);
  return log.callbacks.erase(reinterpret_cast<uint64_t>(handle)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult current_log(CUlogIterator* iterator, unsigned int flags) {
  if (!iterator || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Log& log = instance();
  std::lock_guard guard(log.mutex);
  *iterator = log.end;
  return CUDA_SUCCESS;
}

CUresult dump_log_to_file(CUlogIterator* iterator, const char* path, unsigned int flags) {
  if (!path || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  std::FILE* file = std::fopen(path, "we");
  if (!file) return CUDA_ERROR_INVALID_VALUE;
  bool any;
  const std::string text = take(iterator, SIZE_MAX, &any);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  return std::fclose(file) == 0 && written ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

CUresult dump_log_to_memory(CUlogIterator* iterator, char* buffer, size_t* size, unsigned int flags) {
  if (!buffer || !size || *size == 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  bool any;
  const std::string text = take(iterator, *size - 1, &any);
  std::memcpy(buffer, text.c_str(), text.size() + 1);
  *size = text.size();
  return any && text.empty() ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

}  // namespace bf::abi
