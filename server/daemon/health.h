// `bf health`: what a person should know about this server, each with what to do about it.
#pragma once

#include <vector>

#include "proto/control.h"
#include "server/daemon/inventory.h"
#include "server/daemon/monitor.h"

namespace bf::daemon {

// Quick, and never blocks on the driver.
std::vector<control::HealthCheck> check_health(const Inventory& inventory, const WorkerSetup& setup, const Monitor& monitor);

}  // namespace bf::daemon
