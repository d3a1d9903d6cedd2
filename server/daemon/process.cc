#include "server/daemon/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

namespace bf::daemon {

Result<pid_t> spawn_process(const ProcessSpec& spec) {
  std::vector<char*> arguments{const_cast<char*>(spec.path.c_str())};
  for (auto& argument : spec.arguments) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  std::vector<char*> environment;
  for (auto& variable : spec.environment) environment.push_back(const_cast<char*>(variable.c_str()));
  environment.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  // Order matters: descriptor 3 may be taken by anything of ours, the two sources included.
  posix_spawn_file_actions_adddup2(&actions, spec.stdout_fd < 0 ? STDERR_FILENO : spec.stdout_fd, STDOUT_FILENO);
  if (spec.control_fd >= 0) posix_spawn_file_actions_adddup2(&actions, spec.control_fd, 3);
  posix_spawn_file_actions_addclosefrom_np(&actions, spec.control_fd >= 0 ? 4 : 3);

  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);

  pid_t pid = -1;
  int error = ::posix_spawn(&pid, spec.path.c_str(), &actions, &attributes, arguments.data(), environment.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return errno_status("cannot execute " + spec.path, error);
  return pid;
}

}  // namespace bf::daemon
