// The program shares our process group, so the terminal's own signals (^C, ^\, ^Z, hang-up) reach it without us; those
// that somebody sends to our process id are passed on. When the program stops we stop too, so that the shell sees the
// job stopped; when the shell continues the group, both go on.
#include "tools/program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "base/fd.h"

namespace bf::tools {
namespace {

constexpr int kPassedOn[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP, SIGWINCH};

int status_of(int error) { return error == ENOENT || error == ENOTDIR ? kNotFound : kCannotExecute; }

bool is_executable(const std::string& path, int* error) {
  struct stat facts;
  if (::stat(path.c_str(), &facts) != 0) return *error = errno, false;
  if (!S_ISREG(facts.st_mode)) return *error = EACCES, false;
  if (::access(path.c_str(), X_OK) != 0) return *error = errno, false;
  return true;
}

[[noreturn]] void become(const std::vector<std::string>& command, const sigset_t& mask, pid_t parent, int report) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(kBackfieldFailed);  // it died before prctl()
  std::vector<char*> arguments;
  for (auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::execvp(arguments[0], arguments.data());
  int error = errno;
  [[maybe_unused]] ssize_t written = ::write(report, &error, sizeof error);
  ::_exit(status_of(error));
}

// True when the program has ended; its wait status is then in `status`.
bool has_ended(pid_t program, int* status) {
  while (::waitpid(program, status, WNOHANG | WUNTRACED) == program) {
    if (!WIFSTOPPED(*status)) return true;
    ::kill(::getpid(), SIGSTOP);  // returns when the job is continued
  }
  return false;
}

int wait_for(pid_t program, int signals, int watched, const std::function<Heard()>& listen) {
  pollfd entries[2] = {{signals, POLLIN, 0}, {watched, POLLIN | POLLRDHUP, 0}};
  bool more = true;  // than poll() knows of: what was read, and not yet listened to
  for (;;) {
    if (::poll(entries, 2, more ? 0 : -1) < 0) continue;
    if (more || entries[1].revents != 0) {
      Heard heard = listen();
      more = heard == Heard::kSomething;
      if (heard == Heard::kEnd) entries[1].fd = -1;
    }
    signalfd_siginfo info;
    if (!(entries[0].revents & POLLIN) || ::read(signals, &info, sizeof info) != sizeof info) continue;
    int number = int(info.ssi_signo);
    // SI_KERNEL: the terminal sent it, to the whole group.
    if (number != SIGCHLD && info.ssi_code != SI_KERNEL) ::kill(program, number);
    int status;
    if (number == SIGCHLD && has_ended(program, &status))
      return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

}  // namespace

int check_program(const std::string& command) {
  int error = ENOENT;
  if (command.find('/') != std::string::npos) return is_executable(command, &error) ? 0 : status_of(error);
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/bin:/usr/bin");
  int worst = kNotFound;
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (is_executable((folder.empty() ? "." : folder) + "/" + command, &error)) return 0;
    if (status_of(error) == kCannotExecute) worst = kCannotExecute;
  }
  return worst;
}

int run_program(const std::vector<std::string>& command, int watched, const std::function<Heard()>& listen) {
  sigset_t handled, before;
  sigemptyset(&handled);
  sigaddset(&handled, SIGCHLD);
  // Ours to ignore: who reads the terminal from the background is the program, and it stops for it.
  for (int number : {SIGTTIN, SIGTTOU}) sigaddset(&handled, number);
  for (int number : kPassedOn) sigaddset(&handled, number);
  ::sigprocmask(SIG_BLOCK, &handled, &before);
  ::signal(SIGCHLD, SIG_DFL);  // may be ignored by whoever started us; then nothing could be waited for
  int ends[2];
  Fd signals(::signalfd(-1, &handled, SFD_CLOEXEC));
  if (!signals || ::pipe2(ends, O_CLOEXEC) < 0) {
    fprintf(stderr, "bfrun: cannot run the program: %s\n", strerror(errno));
    return kBackfieldFailed;
  }
  Fd reading(ends[0]), writing(ends[1]);
  pid_t self = ::getpid();
  pid_t program = ::fork();
  if (program < 0) {
    fprintf(stderr, "bfrun: cannot start another process: %s\n", strerror(errno));
    return kBackfieldFailed;
  }
  if (program == 0) become(command, before, self, writing.get());
  writing.reset();
  int error = 0;
  if (::read(reading.get(), &error, sizeof error) == sizeof error)
    fprintf(stderr, "bfrun: %s: %s\n", command[0].c_str(), strerror(error));
  return wait_for(program, signals.get(), watched, listen);
}

}  // namespace bf::tools
