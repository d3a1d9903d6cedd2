// The process table: every worker of this server, from exec to reap, and the warm ones waiting for a client.
//
// A worker is warm (driver up, no client), serving (one session), or ending. Who ends is first asked (SIGTERM) and
// then, after a bounded time, told (SIGKILL); it leaves the table only when it has been reaped, because only then its
// memory on the GPU is free. We keep a copy of a session's client socket without reading it, to see that the client is
// gone even when its worker does not.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "proto/control.h"
#include "server/daemon/event_loop.h"
#include "server/daemon/image_cache.h"
#include "server/daemon/inventory.h"

namespace bf::daemon {

struct Worker {
  enum class Stage { kRunning, kAsked, kKilled };

  pid_t pid = -1;
  Fd control;                // our end of its socket pair
  std::vector<size_t> gpus;  // positions in the inventory
  bool warm = false;         // started with --warm
  bool ready = false;        // said so
  std::string lease_id;      // the lease it serves or is set aside for; empty: anybody's
  Stage stage = Stage::kRunning;
  EventLoop::TimerId timer{};  // the next step of its end
  EventLoop::Clock::time_point started{};

  bool serving = false;
  control::Assign session;
  uint32_t joined = 0;  // bit per channel
  Fd client;            // watched for hang-up only
  control::WorkerReport report;
  bool unasked = false;  // it ended, or began to, before anybody asked it to
  EventLoop::Clock::time_point last_active{};  // of the session, by its reports; to a second

  // It ended although its client had not left. A worker that says nothing at its end has crashed.
  bool lost() const { return serving && unasked && (report.reason.empty() || report.lost); }
  bool idle() const { return warm && !serving && stage == Stage::kRunning; }
};

class WorkerPool {
 public:
  // How long a worker may take to end: after its client is gone before it is asked; after it was asked.
  static constexpr auto kGrace = std::chrono::milliseconds(1000);
  static constexpr auto kAskedGrace = std::chrono::milliseconds(500);

  class Owner {
   public:
    virtual ~Owner() = default;
    // The worker has been reaped; it served a session.
    virtual void on_session_end(const Worker& worker, const std::string& how) = 0;
    // Bytes of the GPU that no lease holds: idle warm workers must fit into them.
    virtual uint64_t spare_bytes(size_t gpu) const = 0;
  };

  WorkerPool(EventLoop& loop, WorkerSetup setup, const std::vector<GpuState>& gpus, Owner& owner)
      : loop_(loop),
        setup_(std::move(setup)),
        gpus_(gpus),
        owner_(owner),
        failures_(gpus.size()),
        retry_at_(gpus.size()) {}
  ~WorkerPool();

  // Keeps `count` idle workers per GPU, as far as memory that is not leased allows.
  void keep_warm(uint32_t count);
  // Sets a warm worker of the GPU aside for the lease, whose memory now accounts for it.
  void set_aside(size_t gpu, const std::string& lease_id);
  // Ends as many idle workers as needed for the rest to fit into spare_bytes.
  void make_room(size_t gpu);

  // Gives the session to a worker set aside for the lease, a warm one, or a new one, and the socket with it. The socket
  // must be in blocking mode. On failure it is untouched.
  Status assign(const std::vector<size_t>& gpus, control::Assign session, Fd& client, int ledger);
  // From now on sessions get a connection to the cache, which outlives the pool.
  void use_images(ImageCache* images) { images_ = images; }
  // The worker whose session `request` may join: the secret is right, and the channel is still free.
  Result<Worker*> may_join(const control::JoinRequest& request);
  // Passes a further connection of the session on, in blocking mode. The descriptor stays the caller's.
  Status join(Worker& worker, uint32_t index, int socket);

  // Ends the workers that serve the lease; frees those set aside for it.
  void end_lease(const std::string& lease_id);
  // No more sessions are to come: ends the idle workers, and keeps none from now on.
  void end_idle();
  // Ends those that serve, too: asks them, or tells them at once.
  void end_all(bool at_once);
  // SIGCHLD came.
  void reap();

  size_t serving(const std::string& lease_id) const;
  size_t serving() const;
  size_t size() const { return workers_.size(); }
  const std::list<Worker>& workers() const { return workers_; }

 private:
  Result<Worker*> spawn(std::vector<size_t> gpus, bool warm);
  Status hand_over(Worker& worker, const control::Assign& session, int client, int ledger);
  Worker* find_session(const std::string& session_id);
  Worker* find_idle(size_t gpu, const std::string& lease_id);
  size_t idle_count(size_t gpu) const;
  void on_message(Worker& worker);
  void on_client_gone(Worker& worker);
  void ask(Worker& worker);
  void kill(Worker& worker);
  void forget(Worker& worker);
  void replenish_later();
  void back_off(size_t gpu);
  void replenish();

  EventLoop& loop_;
  const WorkerSetup setup_;
  const std::vector<GpuState>& gpus_;
  Owner& owner_;
  ImageCache* images_ = nullptr;
  std::list<Worker> workers_;
  uint32_t warm_count_ = 0;
  std::vector<uint32_t> failures_;                      // warm workers of the GPU that died early, in a row
  std::vector<EventLoop::Clock::time_point> retry_at_;  // no warm worker of the GPU before then
  bool replenish_pending_ = false;
};

}  // namespace bf::daemon
