#include "server/daemon/event_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

namespace bf::daemon {

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return errno_status("making the event loop", errno);
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll)));
}

Status EventLoop::watch(int fd, uint32_t events, Handler handler) {
  uint64_t id = next_id_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return errno_status("watching a descriptor", errno);
  ids_[fd] = id;
  handlers_[id] = std::make_shared<Handler>(std::move(handler));
  return {};
}

void EventLoop::change(int fd, uint32_t events) {
  auto found = ids_.find(fd);
  if (found == ids_.end()) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = found->second;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::forget(int fd) {
  auto found = ids_.find(fd);
  if (found == ids_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  handlers_.erase(found->second);
  ids_.erase(found);
}

EventLoop::TimerId EventLoop::after(Clock::duration delay, std::function<void()> action) {
  TimerId timer{Clock::now() + delay, next_id_++};
  timers_[timer] = std::move(action);
  return timer;
}

void EventLoop::cancel(const TimerId& timer) { timers_.erase(timer); }

int EventLoop::next_timeout_ms() const {
  if (timers_.empty()) return -1;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first.first - Clock::now()).count();
  return int(std::clamp<long long>(left, 0, 60'000));
}

void EventLoop::run_timers() {
  auto now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    auto action = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    action();
    run_deferred();
  }
}

void EventLoop::run_deferred() {
  while (!deferred_.empty()) {
    auto actions = std::exchange(deferred_, {});
    for (auto& action : actions) action();
  }
}

void EventLoop::run() {
  stopped_ = false;
  epoll_event events[256];
  while (!stopped_) {
    int ready = ::epoll_wait(epoll_.get(), events, 256, next_timeout_ms());
    for (int i = 0; i < ready && !stopped_; i++) {
      const uint64_t id = events[i].data.u64;  // a copy: the kernel packs its events
      auto found = handlers_.find(id);
      if (found == handlers_.end()) continue;
      auto handler = found->second;  // keeps it alive when it forgets itself
      (*handler)(events[i].events);
      run_deferred();
    }
    run_timers();
  }
}

}  // namespace bf::daemon
