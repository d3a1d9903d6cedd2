// The client's half of attaching to a lease and of joining a session (docs/protocol.md), for the shim and for tests.
#pragma once

#include <string>
#include <string_view>

#include "proto/control.h"
#include "proto/control_channel.h"

namespace bf::control {

struct Admission {
  AttachReply reply;        // status 0
  std::string session_key;  // proto/secrets.h
};

// Sends the request, its nonce filled in, and proves that we know the lease's secret; a worker that is just starting has
// limits::kWorkerStartMs more than `deadline` to answer. A refusal becomes its Status;
// `device_twice` is what it says of CUDA_VISIBLE_DEVICES.
Result<Admission> attach(int socket, AttachRequest request, std::string_view lease_secret, Deadline deadline,
                         bool* device_twice = nullptr);

// Makes `socket` channel `index` of the session.
Status join(int socket, const Admission& session, uint32_t index, Deadline deadline);

}  // namespace bf::control
