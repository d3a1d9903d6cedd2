// The threads of a transport. They live inside other people's programs, so they take no signal meant for the program
// and little memory.
#pragma once

#include <pthread.h>

#include <functional>
#include <thread>

#include "base/status.h"

namespace bf::transport {

// A joinable thread; joined by the destructor. Every signal is blocked in it but those a thread raises by its own fault
// (SIGSEGV ...): a blocked one would end the process without asking the program's handler.
class Thread {
 public:
  // `name` has at most 15 characters. kExhausted if the system gives no further thread.
  static Result<Thread> start(const char* name, std::function<void()> body);

  // The same for a thread that nobody waits for. False if there is none to be had.
  static bool start_detached(const char* name, std::function<void()> body);

  Thread() = default;
  Thread(Thread&& other) noexcept;
  Thread& operator=(Thread&& other) noexcept;
  ~Thread() { join(); }

  void join() noexcept;

 private:
  explicit Thread(pthread_t id) : id_(id), running_(true) {}

  pthread_t id_{};
  bool running_ = false;
};

inline void relax_cpu() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// True where a thread that polls does not take the processor from the one it waits for.
inline bool processors_to_spare() {
  static const bool yes = std::thread::hardware_concurrency() > 4;
  return yes;
}

}  // namespace bf::transport
