// What a worker gives up before it reads the first byte of its client.
#pragma once

#include "base/status.h"

namespace bf::server {

// Takes another user if BF_WORKER_UID and BF_WORKER_GID say so, then limits and a system call filter for the whole
// process. The driver must be initialised. Irreversible; on failure the worker must not serve.
Status enter_sandbox();

}  // namespace bf::server
