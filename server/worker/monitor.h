// `bfworker --monitor`: the one process of a server that asks the vendor's NVML, for bfserver and all its clients.
//
// It asks everything the NVML table relays, once when it starts ("facts"), and what changes again when bfserver wants a
// sample. So a sample costs the same whether one client looks at it or a thousand, and none is taken when nobody looks.
// What the answers mean it does not know: they travel to the client's shim as result code and bytes.
#pragma once

#include "base/status.h"

namespace bf::server {

// Serves bfserver on the socket until it closes. Returns only on failure.
Status run_monitor(int control);

}  // namespace bf::server
