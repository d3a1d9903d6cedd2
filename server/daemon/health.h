// `bf health`: what a person should know about this server, each with what to do about it.
#pragma once

#include <ctime>
#include <vector>

#include "proto/control.h"
#include "server/daemon/inventory.h"
#include "server/daemon/monitor.h"
#include "server/daemon/watch.h"

namespace bf::daemon {

// Quick, and never blocks on the driver. `certificate_expires` is 0 for a server without one.
std::vector<control::HealthCheck> check_health(const Inventory& inventory, const WorkerSetup& setup, const Monitor& monitor,
                                               const Watch& watch, time_t certificate_expires);

}  // namespace bf::daemon
