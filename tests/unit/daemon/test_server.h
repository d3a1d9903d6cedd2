// A bfserver process with fake workers (fake_worker.cc), and clients to it. Everything ends with the object.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "proto/control.h"
#include "proto/handshake.h"
#include "transport/transport.h"

namespace bf::test {

inline constexpr uint64_t kMiB = 1 << 20;

// True if `condition` became true in time.
bool eventually(std::chrono::milliseconds time, const std::function<bool()>& condition);

struct ServerSettings {
  std::vector<std::string> arguments{};  // beside --dev --foreground --listen and the fake worker
  std::vector<std::string> environment{};
  int gpus = 2;
  int memory_mib = 1024;
  bool dev = true;  // false: with tokens and TLS; give a --state-dir
};

class Server {
 public:
  explicit Server(const ServerSettings& settings = {});
  ~Server();
  Server(const Server&) = delete;

  // False if it said no readiness line; then log() says why.
  bool ready() const { return port_ != 0; }
  pid_t pid() const { return pid_; }
  transport::Address tcp() const;
  transport::Address unix_socket() const;
  std::string address() const { return tcp().to_string(); }
  std::string log() const;

  void signal(int number) const;
  // The exit status, or -1 if it is still there after `time`, or 128 + signal.
  int wait(std::chrono::milliseconds time);

  std::vector<pid_t> workers() const;  // less the monitor
  size_t open_descriptors() const;

 private:
  pid_t pid_ = -1;
  uint16_t port_ = 0;
  std::string log_path_;
};

// --- a client's side; failures are failures of the test
// ---------------------------------------------------------------

Fd dial(const transport::Address& address);

control::ListReply list(const Server& server);
uint64_t free_mib(const Server& server, size_t gpu = 0);

struct Lease {
  Fd connection;
  control::LeaseReply reply;
};
Lease lease(const Server& server, uint32_t gpus, uint64_t memory_mib, double fraction = 0);
// Reserves and commits on the connection; a refusal is the reply's status.
control::LeaseReply take_lease(int connection, const control::LeaseRequest& request);
control::ReserveReply reserve(int connection, const control::LeaseRequest& request);

struct Session {
  Fd socket;
  Status status;  // of the attach
  control::Admission admission;
};
// `program` tells the fake worker what to do.
Session attach(const Server& server, const control::LeaseReply& lease, const std::string& program, bool local = false);
Status join(const Server& server, const Session& session, uint32_t index, Fd* socket);
// True if what is written comes back.
bool echoes(const Session& session);
// True if the peer closes within `time`.
bool closes(int socket, std::chrono::milliseconds time);

}  // namespace bf::test
