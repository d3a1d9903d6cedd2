// bfserver itself: accepts, reads requests, keeps the books, starts and ends workers. Everything runs on one event
// loop; nothing here blocks. The state that matters is in LeaseTable and WorkerPool; this class answers requests with
// them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "server/daemon/connection.h"
#include "server/daemon/event_loop.h"
#include "server/daemon/image_cache.h"
#include "server/daemon/inventory.h"
#include "server/daemon/lease_table.h"
#include "server/daemon/options.h"
#include "server/daemon/worker_pool.h"

namespace bf::daemon {

class Daemon : private Connection::Owner, private WorkerPool::Owner {
 public:
  // `signals` is a signalfd for SIGTERM, SIGINT, SIGHUP and SIGCHLD, which are blocked.
  // `reload` reads the configuration again.
  Daemon(EventLoop& loop, Options options, WorkerSetup setup, Inventory inventory, Fd signals,
         std::function<Parsed()> reload);
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

  Status open_listener(const std::string& text);
  Status add_listener(Fd socket, bool local);
  void close_listeners();
  void accept_some(Listener& listener);
  bool welcome(int socket, bool local) const;
  bool evict_oldest();
  size_t unattached() const;
  void pause(Listener& listener);
  void sweep();

  void list(Connection& connection);
  void lease(Connection& connection, const std::string& body);
  void attach(Connection& connection, const std::string& body);
  void join(Connection& connection, const std::string& body);
  Result<std::vector<control::WorkerDevice>> devices_of(const Lease& lease, const control::AttachRequest& request,
                                                        bool* twice) const;
  Result<control::Assign> admit(const Connection& connection, const control::AttachRequest& request, Lease** lease, bool* twice);
  void refuse(Connection& connection, const Status& why);
  void end_lease(Lease& lease);
  void drop(Connection& connection);

  void on_signal();
  void begin_drain();
  void end_now(bool at_once);
  void stop_if_drained();
  void reload();

  EventLoop& loop_;
  Options options_;
  WorkerSetup setup_;
  Inventory inventory_;
  Fd signals_;
  std::function<Parsed()> reload_;
  LeaseTable leases_;
  std::unique_ptr<ImageCache> images_;  // outlives workers_
  WorkerPool workers_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::string> addresses_;
  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;
  uint64_t next_connection_ = 1;
  size_t max_connections_ = limits::kIdleConnections;
  bool draining_ = false;
};

}  // namespace bf::daemon
