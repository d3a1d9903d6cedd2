// What bfserver and its workers say to each other, over a SOCK_SEQPACKET socketpair: one datagram per message, made of
// a u32 kind (little endian) and the protobuf body of proto/control.proto. Descriptors travel beside it (SCM_RIGHTS).
//
//   kAssign   bfserver -> worker  Assign;        descriptors: [0] client socket (blocking mode), [1] ledger memfd,
//                                               [2] the image cache, if there is one
//   kChannel  bfserver -> worker  Channel;       descriptors: [0] the joined connection (blocking mode)
//   kReady    worker -> bfserver  Ready          sent once, by `--warm` workers, when the driver is up
//   kReport   worker -> bfserver  WorkerReport   at most once a second, and once at the end with `reason`
//   kSample   bfserver -> monitor MonitorRequest
//   kReading  monitor -> bfserver MonitorReport  several per kSample, the last one says so
//
// The socket closing in either direction ends the worker.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"

namespace bf::supervise {

enum class Kind : uint32_t { kAssign = 1, kChannel = 2, kReady = 3, kReport = 4, kSample = 5, kReading = 6 };

inline constexpr size_t kDescriptors = 4;           // most descriptors beside one message
inline constexpr size_t kDatagramBytes = 64 << 10;  // Assign with 16 devices is under 8 KiB

struct Message {
  Kind kind = Kind::kReady;
  std::string body;
  std::vector<Fd> fds;  // close-on-exec
};

// Both ends of a new connection, close-on-exec.
Result<std::pair<Fd, Fd>> make_pair();

// Sends one message; never blocks. kExhausted when the peer does not read (its queue is full), kUnavailable when it is
// gone. The descriptors stay the caller's.
Status send(int socket, Kind kind, const std::string& body, std::span<const int> fds = {});

// Receives one message, waiting until `deadline`: kTimeout then, kUnavailable when the peer closed, kInvalid for a
// datagram that breaks the format (no descriptor leaks). A deadline in the past polls.
Result<Message> receive(int socket, std::chrono::steady_clock::time_point deadline);
// The same without a deadline.
Result<Message> receive(int socket);

}  // namespace bf::supervise
