// bfserver itself: accepts, reads requests, keeps the books, starts and ends workers. Everything runs on one event
// loop; nothing here blocks. The state that matters is in LeaseTable, WaitingList and WorkerPool; this class answers
// requests with them: daemon.cc (life, connections), leases.cc, sessions.cc, manage.cc and cluster.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "server/daemon/connection.h"
#include "server/daemon/event_loop.h"
#include "server/daemon/audit.h"
#include "server/daemon/authority.h"
#include "server/daemon/cluster_config.h"
#include "server/daemon/etcd_member.h"
#include "server/daemon/guests.h"
#include "server/daemon/image_cache.h"
#include "server/daemon/inventory.h"
#include "server/daemon/lease_table.h"
#include "server/daemon/managed_state.h"
#include "server/daemon/monitor.h"
#include "server/daemon/options.h"
#include "server/daemon/waiting.h"
#include "server/daemon/watch.h"
#include "server/daemon/worker_pool.h"

namespace bf::daemon {

class Daemon : private Connection::Owner, private WorkerPool::Owner, private ManagedState::Owner {
 public:
  // `signals` is a signalfd for SIGTERM, SIGINT, SIGHUP and SIGCHLD, which are blocked.
  // `reload` reads the configuration again.
  Daemon(EventLoop& loop, Options options, WorkerSetup setup, Inventory inventory, std::unique_ptr<Store> store,
         Audit audit, Fd signals, std::function<Parsed()> reload);
  ~Daemon() override;

  // Opens the sockets and starts the warm workers.
  Status start();
  // Until drained after SIGTERM.
  void run();

  // "2 GPUs (software), listening on 127.0.0.1:56001", after start().
  std::string summary() const;

 private:
  struct Listener {
    Fd socket;
    bool local = false;
  };

  void on_frame(Connection& connection, control::Frame frame) override;
  void on_lost(Connection& connection, const Status& why) override;
  void on_session_end(const Worker& worker, const std::string& how) override;
  uint64_t spare_bytes(size_t gpu) const override;
  void on_configuration() override;

  Status load_certificates();
  Status open_listener(const std::string& text);
  Status add_listener(Fd socket, bool local);
  void close_listeners();
  void accept_some(Listener& listener);
  bool welcome(int socket, bool local) const;
  bool evict_oldest();
  size_t unattached() const;
  void pause(Listener& listener);
  void sweep();

  void list(Connection& connection, const std::string& body);
  void read(Connection& connection, const std::string& body);
  control::ListReply describe() const;
  control::ReadingReply describe(Lease& lease, const control::ReadingRequest& request) const;
  void answer_fresh(Connection& connection, std::function<void(Connection&)> answer);
  Identity identify(const Connection& connection) const;
  void authenticate(Connection& connection, const std::string& body);
  void refuse(Connection& connection, const Status& why);
  void drop(Connection& connection);

  // leases.cc
  void reserve(Connection& connection, const std::string& body);
  void answer_reserve(Connection& connection, const std::string& lease_id, const Status& claimed);
  Claim claim_of(const Lease& lease) const;
  Status check_own_limits(const Identity& who, const control::LeaseRequest& request, const std::vector<Share>& shares) const;
  Taken taken_by(const control::LeaseRequest& request, const std::vector<Share>& shares) const;
  Result<Lease*> try_reserve(Connection& connection, const control::LeaseRequest& request);
  void commit(Connection& connection, const std::string& body);
  std::string gpu_list(const Lease& lease) const;
  void hold(Connection& connection, const std::string& body);
  void answer_lease(Connection& connection, Opcode opcode, const Lease& lease);
  void settle(Connection& connection);
  void on_holder_lost(Connection& connection, Lease& lease);
  // Stops its workers, tells its holders why, and releases it once the last worker is gone.
  void end_lease(Lease& lease, const std::string& why);
  void release_if_over(Lease& lease);
  void forget_lease(Lease& lease);
  void check_leases();
  // No new leases; those left after `deadline_s` (0: never) are ended.
  void drain(uint32_t deadline_s);
  // When the lease was last used; now, while it is being used.
  EventLoop::Clock::time_point last_used(const Lease& lease, EventLoop::Clock::time_point now) const;

  // sessions.cc
  struct Attaching {  // between Challenge and Proof
    std::string body;
    control::AttachRequest request;
    std::string nonce;
  };
  void attach(Connection& connection, std::string body);
  void prove(Connection& connection, const std::string& body);
  void join(Connection& connection, const std::string& body);
  // Those who keep the lease hear of a session that was lost, and that the last one has ended if they wait for that.
  void tell_holders(Lease& lease, const Worker& ended, const std::string& how);
  // `device_twice`: refused because the program's CUDA_VISIBLE_DEVICES names one twice.
  Result<std::vector<control::WorkerDevice>> devices_of(const Lease& lease, const control::AttachRequest& request,
                                                        bool* device_twice) const;
  Result<control::Assign> admit(const Connection& connection, const Attaching& attaching, std::string_view proof,
                                Lease** lease, bool* device_twice);
  void refuse_attach(Connection& connection, const Status& why, bool device_twice = false);
  // Whether sessions from where this connection comes from must be encrypted.
  bool must_encrypt(const Connection& connection) const;

  // manage.cc
  using Answer = std::function<void(Status, std::string json)>;
  void manage(Connection& connection, const control::Frame& frame);
  void run_command(const Identity& who, const std::vector<std::string>& words, const std::string& payload, Answer answer);
  Status run_own_command(const Identity& who, const std::vector<std::string>& words, std::string* json);
  // Commands that look at what the pool agrees on, or say how to change it.
  Status run_shared_command(const std::vector<std::string>& words, std::string* json, std::optional<Change>* change);
  Status run_token_command(const std::vector<std::string>& words, std::string* json, std::optional<Change>* change);
  Status run_limit_command(const std::vector<std::string>& words, std::string* json, std::optional<Change>* change);
  void restore(const std::string& text, Answer answer);

  // cluster.cc
  void run_cluster_command(const std::vector<std::string>& words, const std::string& payload, Answer answer);
  void begin_cluster(ClusterConfig config, const EtcdSecrets& secrets, Answer answer);
  void invite(const std::string& name, const std::string& peer_url, Answer answer);
  void join_cluster(const std::string& invitation, Answer answer);
  void leave_cluster(Answer answer);
  void dismiss(const std::string& name, Answer answer);
  void describe_cluster(Answer answer);
  // From now on this server is part of a managed pool; or, by itself again.
  Status start_managed(ClusterConfig config);
  void stop_managed();
  void look_after_members();
  void drop_member();

  void on_signal();
  void begin_drain();
  void end_now(bool at_once);
  void stop_if_drained();
  void start_watch();
  void reload();

  EventLoop& loop_;
  Options options_;
  WorkerSetup setup_;
  Inventory inventory_;
  std::unique_ptr<Store> store_;
  Audit audit_;
  std::optional<ClusterConfig> cluster_;  // of a managed pool; then
  std::unique_ptr<EtcdMember> etcd_member_;  // which outlives the state
  std::unique_ptr<SharedState> state_;
  ManagedState* managed_ = nullptr;  // state_, in a managed pool
  EventLoop::TimerId members_timer_{};
  Credentials credentials_;  // none with --dev
  Guesses guesses_;
  Fd signals_;
  std::function<Parsed()> reload_;
  LeaseTable leases_;
  WaitingList waiting_;
  std::unique_ptr<ImageCache> images_;  // outlives workers_
  WorkerPool workers_;
  Monitor monitor_;
  Watch watch_;
  std::unordered_map<uint64_t, Attaching> attaching_;  // by connection
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::string> addresses_;
  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;
  uint64_t next_connection_ = 1;
  size_t max_connections_ = limits::kIdleConnections;
  const std::string server_id_;
  EventLoop::TimerId drain_timer_{};
  bool draining_ = false;  // no new leases
  bool stopping_ = false;  // nor anything else; ends with the last session
};

}  // namespace bf::daemon
