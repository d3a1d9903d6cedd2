// rdma: a link over verbs (InfiniBand, RoCE v2, Soft-RoCE), connected by rdma_cm.
//
// The connection over which a session was attached stays open beside it: its hang-up tells that the peer died, whatever
// the RDMA network says. Verbs traffic is not encrypted; the right to connect is proven with the session's key (proto/secrets.h).
#pragma once

#include "transport/transport.h"

namespace bf::transport {

// Bulk connections of one session: each has a thread that copies or waits, and one copies about as fast as 100 Gb/s.
inline constexpr uint32_t kRdmaBulkChannels = 2;

// The worker's side: listens on every RDMA device (or that of `host`, a numeric address) for the connections of one
// session. Opens devices and needs no privileges or system calls for sockets after that.
class RdmaListener {
 public:
  // kUnavailable: no RDMA here, says why and what to do.
  static Result<std::unique_ptr<RdmaListener>> open(const std::string& host, const std::string& session_key);
  virtual ~RdmaListener() = default;

  virtual uint16_t port() const = 0;
  // Readable when a connection arrives.
  virtual int fd() const = 0;
  // Takes all connections of the link. Connections without the proof are refused and count for nothing. Gives up with
  // kUnavailable when `elsewhere` (a descriptor, or -1) becomes readable: the client chose another way. `control` stays
  // the caller's on failure.
  virtual Result<std::unique_ptr<Link>> accept(Fd& control, int elsewhere, std::chrono::milliseconds timeout) = 0;
};

// The client's side. `host` is a numeric address, `port` what the worker said. `control` as above.
Result<std::unique_ptr<Link>> connect_rdma_link(Fd& control, const std::string& host, uint16_t port,
                                                const std::string& session_key, std::chrono::milliseconds timeout);

// Ok if this host has the libraries and a device with an active port; else why not and what to do. Cheap: connects to
// nobody.
Status rdma_available();

// Registered by this process now.
struct RdmaMemory {
  uint64_t regions = 0;
  uint64_t bytes = 0;
};
RdmaMemory rdma_memory();

}  // namespace bf::transport
