#include "softgpu/driver/scheduler.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace bf::softgpu {
namespace {

int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

}  // namespace

struct Scheduler::Pool {
  std::mutex mutex;  // guards the pool and the edges between operations
  std::condition_variable wake;
  std::deque<OperationRef> ready;
  size_t idle = 0;
};

// Never destroyed: threads may still run when static destructors do.
Scheduler& Scheduler::instance() {
  static Scheduler* scheduler = new Scheduler;
  return *scheduler;
}

Scheduler::Scheduler() : pool_(new Pool) {}

OperationRef Scheduler::make(std::function<void()> work, std::span<const OperationRef> after, bool run_inline) {
  auto operation = std::make_shared<Operation>();
  operation->work_ = std::move(work);
  operation->inline_ = run_inline;
  std::unique_lock lock(pool_->mutex);
  for (const OperationRef& before : after) {
    if (!before || before->state_.load(std::memory_order_relaxed) == Operation::kDone) continue;
    before->followers_.push_back(operation);
    operation->unfinished_++;
  }
  if (operation->unfinished_ == 0) {
    operation->state_.store(Operation::kReady, std::memory_order_release);
    lock.unlock();
    if (!run_inline) start(operation);
  }
  return operation;
}

OperationRef Scheduler::submit(std::function<void()> work, std::span<const OperationRef> after) {
  return make(std::move(work), after, false);
}

OperationRef Scheduler::prepare(std::span<const OperationRef> after) { return make({}, after, true); }

void Scheduler::run(const OperationRef& operation, const std::function<void()>& work) {
  while (operation->state_.load(std::memory_order_acquire) == Operation::kWaiting)
    operation->state_.wait(Operation::kWaiting, std::memory_order_acquire);
  work();
  finish(operation);
}

// Hands a ready operation to an idle thread, or to a new one. Joins without work end here and now.
void Scheduler::start(OperationRef operation) {
  if (!operation->work_) return finish(operation);
  std::unique_lock lock(pool_->mutex);
  pool_->ready.push_back(std::move(operation));
  if (pool_->idle >= pool_->ready.size()) {
    pool_->wake.notify_one();
    return;
  }
  lock.unlock();
  // The program's signals are its own threads' business.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  std::thread([this] {
    std::unique_lock lock(pool_->mutex);
    for (;;) {
      if (pool_->ready.empty()) {
        pool_->idle++;
        pool_->wake.wait_for(lock, std::chrono::seconds(2), [this] { return !pool_->ready.empty(); });
        pool_->idle--;
        if (pool_->ready.empty()) return;
      }
      OperationRef next = std::move(pool_->ready.front());
      pool_->ready.pop_front();
      lock.unlock();
      execute(std::move(next));
      lock.lock();
    }
  }).detach();
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

void Scheduler::execute(OperationRef operation) {
  operation->work_();
  finish(operation);
}

// Ends `first` and, iteratively, the joins that only waited for it: chains of events can be very long.
void Scheduler::finish(const OperationRef& first) {
  std::vector<OperationRef> ended{first};
  while (!ended.empty()) {
    OperationRef operation = std::move(ended.back());
    ended.pop_back();
    operation->work_ = nullptr;  // releases what the work holds before anybody learns that it is over
    operation->ended_ns_ = now_ns();
    std::vector<OperationRef> followers, released;
    {
      std::lock_guard lock(pool_->mutex);
      operation->state_.store(Operation::kDone, std::memory_order_release);
      followers.swap(operation->followers_);
      for (OperationRef& follower : followers) {
        if (--follower->unfinished_ == 0) {
          follower->state_.store(Operation::kReady, std::memory_order_release);
          released.push_back(std::move(follower));
        }
      }
    }
    operation->state_.notify_all();
    for (OperationRef& follower : released) {
      if (follower->inline_)
        follower->state_.notify_all();
      else if (!follower->work_)
        ended.push_back(std::move(follower));
      else
        start(std::move(follower));
    }
  }
}

}  // namespace bf::softgpu
