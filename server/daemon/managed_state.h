// The state of a managed pool: its books (pool_books.h) on a thread of their own, because etcd may take long and bfserver's
// event loop must not wait. The Store is a copy of what the pool agrees on: with it a server goes on when etcd cannot be
// reached, for everything but new leases and changes.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "base/fd.h"
#include "server/daemon/event_loop.h"
#include "server/daemon/pool_books.h"
#include "server/daemon/shared_state.h"

namespace bf::daemon {

class ManagedState final : public SharedState {
 public:
  static constexpr size_t kJobs = 4096;
  static constexpr auto kTick = std::chrono::seconds(1);
  static constexpr auto kClaimTime = std::chrono::seconds(3);  // what clients wait for an answer is a little more

  class Owner {
   public:
    virtual ~Owner() = default;
    // The Store has changed, and maybe the authority.
    virtual void on_configuration() = 0;
  };

  ManagedState(EventLoop& loop, Store& copy, std::string state_dir, std::unique_ptr<PoolBooks> books, Owner& owner);
  // Takes the server out of the pool's books, if they answer.
  ~ManagedState() override;
  // To be called once, before anything else.
  Status start();

  void claim(Claim claim, Done done) override;
  void release(const std::string& lease_id) override;
  void refresh(Done done) override;
  void apply(Change change, Done done) override;
  void read(std::function<void(Result<Configuration>)> done) override;

  // Runs `job` with the books on their thread and `done` with its result on the loop's.
  template <typename T>
  void ask(std::function<T(PoolBooks&)> job, std::function<void(T)> done) {
    post([this, job = std::move(job), done = std::move(done)] {
      finish([done, result = job(*books_)]() mutable { done(std::move(result)); });
    });
  }
  // Whether a majority answered when it was last asked.
  bool reachable() const { return reachable_; }

 private:
  using Clock = std::chrono::steady_clock;

  void post(std::function<void()> job);
  void finish(std::function<void()> action);  // on the loop's thread
  void take_finished();
  void run();
  void tick();
  void note(const Status& last);  // whether the books answer, as `last` shows
  void pass_on();  // what the books have read, to the loop

  EventLoop& loop_;
  Store& copy_;
  const std::string state_dir_;
  Owner& owner_;
  Fd event_;  // something has finished
  int64_t copied_ = 0;  // revision of the copy
  std::atomic<bool> reachable_ = true;  // until the opposite is known

  // Of the thread.
  std::unique_ptr<PoolBooks> books_;
  int64_t passed_on_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::function<void()>> finished_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace bf::daemon
