// The way by which calls are counted and traced (BF_STATS, BF_TRACE): every stub holds a Watch. While nobody asks for
// either, that is one load and a branch.
#pragma once

#include <atomic>
#include <cstdint>

namespace bf::client {

// Which of the two are wanted; set when the shim is loaded, cleared in forked children.
inline constexpr uint32_t kWatchStats = 1, kWatchTrace = 2;
extern constinit std::atomic<uint32_t> g_watched;

void watch_enter(uint32_t symbol) noexcept;
void watch_leave() noexcept;

class Watch {
 public:
  // `symbol`: index into symbol_name().
  explicit Watch(uint32_t symbol) noexcept : on_(g_watched.load(std::memory_order_relaxed) != 0) {
    if (on_) [[unlikely]] watch_enter(symbol);
  }
  ~Watch() {
    if (on_) [[unlikely]] watch_leave();
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  const bool on_;
};

// Generated (api/names.cc): the exported symbols in alphabetical order, and what a call on the wire is named.
extern const uint32_t kSymbols;
const char* symbol_name(uint32_t symbol) noexcept;
const char* call_name(uint16_t opcode) noexcept;  // nullptr: no such call

}  // namespace bf::client
