// Attaching: from the environment that bfrun made to a link with a worker.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/cuda_environment.h"
#include "base/fd.h"
#include "base/status.h"
#include "proto/control_channel.h"
#include "transport/transport.h"

namespace bf::client {

// BF_SERVER, BF_LEASE, BF_LEASE_SECRET, BF_TRANSPORT and BF_ENCRYPT. An empty server: this process has no GPUs.
struct AttachSettings {
  std::string server;
  std::string lease;
  std::string secret;     // raw bytes
  std::string transport;  // auto | tcp | shm | rdma
  bool encrypt = false;   // TLS on tcp, and nothing less
  CudaEnvironment cuda;   // which of the lease's devices the program wants

  static Result<AttachSettings> from_environment();
};

struct Dialled {
  Fd socket;
  bool same_host = false;  // over the server's Unix socket
};

// A connection to bfserver, as `settings.transport` asks; `address` is where the server is.
Result<Dialled> dial_server(const AttachSettings& settings, control::Deadline deadline, transport::Address* address);

struct Attached {
  std::unique_ptr<transport::Link> link;
  std::vector<int> sockets;  // owned by the link; a forked child closes its copies, so that they do not keep it alive
  std::string choice;        // the transport and why it, for people
};

// Dials, proves the lease, opens the channels. Blocks for at most twice limits::kHandshakeTimeoutMs, and
// limits::kWorkerStartMs for a worker that is just starting.
// kImpossible: no device is visible; `device_twice` says whether because one was named twice.
Result<Attached> attach(const AttachSettings& settings, bool* device_twice);

// Tests without a server give a factory; it is asked instead of from_environment() and attach().
using LinkFactory = std::function<Result<Attached>(bool* device_twice)>;
void set_link_factory(LinkFactory factory);
const LinkFactory& link_factory();

}  // namespace bf::client
