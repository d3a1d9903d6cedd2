// Starting bfworker processes: posix_spawn with a clean environment, nothing inherited but what is named here.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/status.h"

namespace bf::daemon {

struct ProcessSpec {
  std::string path;
  std::vector<std::string> arguments;    // without the program name
  std::vector<std::string> environment;  // NAME=value, all of it
  int stdout_fd = -1;                    // -1: standard error
  int control_fd = -1;                   // becomes descriptor 3
};

// The child has its own process group (a terminal's interrupt is for the daemon only), default signals, an empty signal
// mask and /dev/null as input. kInternal with the path if it cannot be executed.
Result<pid_t> spawn_process(const ProcessSpec& spec);

}  // namespace bf::daemon
