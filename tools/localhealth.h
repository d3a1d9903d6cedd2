// `bf localhealth`: what a person should know about this machine as a client, each with what to do about it.
#pragma once

#include <vector>

#include "proto/control.h"

namespace bf::tools {

std::vector<control::HealthCheck> check_local_health();

}  // namespace bf::tools
