#include "server/daemon/managed_state.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "server/daemon/log.h"

namespace bf::daemon {
namespace {

Status no_majority() {
  return {StatusCode::kExhausted,
          "the pool's shared state has no majority: running programs go on, and new leases are waiting for it"};
}

}  // namespace

ManagedState::ManagedState(EventLoop& loop, Store& copy, std::string state_dir, std::unique_ptr<PoolBooks> books, Owner& owner)
    : loop_(loop), copy_(copy), state_dir_(std::move(state_dir)), owner_(owner), books_(std::move(books)) {}

Status ManagedState::start() {
  event_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_) return errno_status("making an event descriptor", errno);
  BF_RETURN_IF_ERROR(loop_.watch(event_.get(), EPOLLIN, [this](uint32_t) { take_finished(); }));
  thread_ = std::thread([this] { run(); });  // inherits the blocked signals: they are the loop's
  return {};
}

ManagedState::~ManagedState() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    jobs_.clear();
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
  loop_.forget(event_.get());
}

// --- the thread ------------------------------------------------------------------------------------------------------

void ManagedState::run() {
  auto next_tick = Clock::now();
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait_until(lock, next_tick, [this] { return ending_ || !jobs_.empty(); });
      if (ending_) break;
      if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
    }
    if (job) job();
    if (Clock::now() < next_tick) continue;
    tick();
    next_tick = Clock::now() + kTick;
  }
  if (reachable_) books_->leave();
}

void ManagedState::tick() {
  Status kept = books_->keep();
  note(kept);
  pass_on();
}

void ManagedState::note(const Status& last) {
  bool answers = books_->reachable();
  if (reachable_.exchange(answers) == answers) return;
  finish([answers, why = last.message()] {
    if (answers)
      log::info("the pool's shared state answers again");
    else
      log::warn("the pool's shared state has no majority, new leases wait: {}", why);
  });
}

void ManagedState::pass_on() {
  if (books_->revision() == passed_on_) return;
  passed_on_ = books_->revision();
  finish([this, revision = passed_on_, fresh = books_->configuration()] {
    copied_ = revision;
    if (Status adopted = adopt(fresh, copy_, state_dir_); !adopted.ok()) return log::error("the pool's configuration: {}", adopted.message());
    owner_.on_configuration();
  });
}

void ManagedState::post(std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void ManagedState::finish(std::function<void()> action) {
  {
    std::lock_guard lock(mutex_);
    finished_.push_back(std::move(action));
  }
  ::eventfd_write(event_.get(), 1);
}

void ManagedState::take_finished() {
  eventfd_t count = 0;
  ::eventfd_read(event_.get(), &count);
  std::vector<std::function<void()>> actions;
  {
    std::lock_guard lock(mutex_);
    actions.swap(finished_);
  }
  for (auto& action : actions) action();
}

// --- requests --------------------------------------------------------------------------------------------------------

void ManagedState::claim(Claim claim, Done done) {
  if (!reachable_) return done(no_majority());
  bool busy = false;
  {
    std::lock_guard lock(mutex_);
    busy = jobs_.size() >= kJobs;
  }
  if (busy) return done({StatusCode::kExhausted, "too many clients wait for the pool's shared state"});
  post([this, claim = std::move(claim), done = std::move(done), asked = Clock::now()] {
    Status claimed = !reachable_ || Clock::now() - asked > kClaimTime ? no_majority() : books_->claim(claim);
    note(claimed);
    if (claimed.code() == StatusCode::kUnavailable) claimed = no_majority();
    pass_on();
    finish([done, claimed] { done(claimed); });
  });
}

// Without a bound of its own: there are no more of them than leases.
void ManagedState::release(const std::string& lease_id) {
  post([this, lease_id] { books_->release(lease_id); });
}

void ManagedState::refresh(Done done) {
  if (!reachable_) return done({});  // from the copy, then
  post([this, done = std::move(done)] {
    Status refreshed = books_->refresh();
    pass_on();
    finish([done, refreshed] { done(refreshed.code() == StatusCode::kUnavailable ? ok_status() : refreshed); });
  });
}

void ManagedState::apply(Change change, Done done) {
  post([this, change = std::move(change), done = std::move(done), from = copied_] {
    Status applied = from == books_->revision()
                         ? books_->apply(change)
                         : Status{StatusCode::kExhausted, "the pool's configuration was changed elsewhere at this moment; look again, and repeat it"};
    pass_on();
    if (applied.code() == StatusCode::kUnavailable)
      applied = {StatusCode::kUnavailable, "the pool's shared state has no majority, and nothing can be changed until it has: " + applied.message()};
    finish([done, applied] { done(applied); });
  });
}

void ManagedState::read(std::function<void(Result<Configuration>)> done) {
  ask<Result<Configuration>>(
      [](PoolBooks& books) -> Result<Configuration> {
        if (Status fresh = books.refresh(); !fresh.ok()) return fresh;
        return books.configuration();
      },
      std::move(done));
}

}  // namespace bf::daemon
