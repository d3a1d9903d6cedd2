// A pool's configuration in one file: its authority, tokens and limits. Another server that takes it over is of the same
// pool. JSON, with a version; it holds the authority's key and is a secret.
#pragma once

#include <string>

#include "base/status.h"
#include "server/daemon/store.h"

namespace bf::daemon {

Result<std::string> backup(const Store& store, const std::string& state_dir);

// Replaces authority, tokens and limits; the server's own certificate is made again at the next start. All is checked
// before anything is changed. kInvalid if the file is damaged or of a newer version.
Status restore(Store& store, const std::string& state_dir, const std::string& path);

}  // namespace bf::daemon
