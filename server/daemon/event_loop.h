// The one thread of bfserver: epoll, timers and deferred work. Handlers run on the thread in run(), never nested, and
// must not block; each does a bounded amount of work per event, so nobody starves (epoll is level-triggered).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/status.h"

namespace bf::daemon {

class EventLoop {
 public:
  using Clock = std::chrono::steady_clock;
  using Handler = std::function<void(uint32_t events)>;
  using TimerId = std::pair<Clock::time_point, uint64_t>;

  static Result<std::unique_ptr<EventLoop>> create();

  // Calls `handler` with the epoll events that are ready. The descriptor stays the caller's; forget() it before
  // closing. An event already fetched when forget() is called is dropped, also if the number was reused.
  Status watch(int fd, uint32_t events, Handler handler);
  void change(int fd, uint32_t events);
  void forget(int fd);

  TimerId after(Clock::duration delay, std::function<void()> action);
  void cancel(const TimerId& timer);  // no-op once it ran
  // Runs when the current handler has returned: the place to destroy the object whose handler runs.
  void defer(std::function<void()> action) { deferred_.push_back(std::move(action)); }

  void run();
  void stop() { stopped_ = true; }

 private:
  explicit EventLoop(Fd epoll) : epoll_(std::move(epoll)) {}
  int next_timeout_ms() const;
  void run_timers();
  void run_deferred();

  Fd epoll_;
  bool stopped_ = false;
  uint64_t next_id_ = 1;
  std::unordered_map<int, uint64_t> ids_;  // descriptor -> id of its watch
  std::unordered_map<uint64_t, std::shared_ptr<Handler>> handlers_;
  std::map<TimerId, std::function<void()>> timers_;
  std::vector<std::function<void()>> deferred_;
};

}  // namespace bf::daemon
