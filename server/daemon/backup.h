// A pool's configuration in one file. Another server that takes it over is of the same pool. JSON, with a version; it
// holds the authority's key and is a secret.
#pragma once

#include <string>

#include "base/status.h"
#include "server/daemon/configuration.h"

namespace bf::daemon {

std::string backup_of(const Configuration& configuration);
// Everything is checked; kInvalid if it is damaged or of a newer version. `name` is for the message.
Result<Configuration> read_backup(const std::string& text, const std::string& name);

}  // namespace bf::daemon
