// bfrun on a terminal: ^C, ^Z and fg as with any program. The test plays the shell: a session leader on a
// pseudo-terminal that runs bfrun as the foreground job.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "tests/unit/daemon/test_server.h"
#include "tests/unit/tools/run_tool.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;

// What the shell does: reports "stopped" and continues the job, or "exit N", on the terminal.
[[noreturn]] void be_the_shell(const char* terminal, std::vector<std::string> words) {
  setsid();
  int tty = open(terminal, O_RDWR);
  ioctl(tty, TIOCSCTTY, 0);
  for (int fd : {0, 1, 2}) dup2(tty, fd);
  signal(SIGTTOU, SIG_IGN);
  pid_t job = fork();
  if (job == 0) {
    setpgid(0, 0);
    tcsetpgrp(0, getpid());
    signal(SIGTTOU, SIG_DFL);
    std::vector<char*> arguments;
    for (auto& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    _exit(99);
  }
  setpgid(job, job);
  for (int status;;) {
    waitpid(job, &status, WUNTRACED);
    if (!WIFSTOPPED(status)) {
      tcsetpgrp(0, getpgrp());
      dprintf(1, "exit %d\n", WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status));
      _exit(0);
    }
    tcsetpgrp(0, getpgrp());
    dprintf(1, "stopped\n");
    tcsetpgrp(0, job);
    kill(-job, SIGCONT);
  }
}

class Terminal {
 public:
  Terminal(const Server& server, const std::string& script) {
    master_.reset(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    grantpt(master_.get());
    unlockpt(master_.get());
    std::string name = ptsname(master_.get());
    std::vector<std::string> words = {
        prefix() + "/bin/bfrun", "--server", server.address(), "-m", "100", "--", "sh", "-c", script};
    shell_ = fork();
    if (shell_ == 0) {
      master_.reset();
      be_the_shell(name.c_str(), words);
    }
  }
  ~Terminal() {
    master_.reset();  // hangs up
    EXPECT_TRUE(eventually(5s, [&] { return waitpid(shell_, nullptr, WNOHANG) != 0; }));
  }
  void type(const char* keys) { EXPECT_GT(write(master_.get(), keys, strlen(keys)), 0); }
  // Skips lines (the terminal's own echo of ^C) until `wanted` comes.
  bool shows(const std::string& wanted) {
    for (int i = 0; i < 20; i++) {
      std::string line = next_line(master_.get(), 5s);
      if (line == wanted || (line.size() > wanted.size() && line.ends_with(wanted))) return true;
      if (line.empty()) return false;
      seen_ += line + "\n";
    }
    return false;
  }
  const std::string& seen() const { return seen_; }

 private:
  Fd master_;
  pid_t shell_ = -1;
  std::string seen_;
};

TEST(Terminal, InterruptReachesTheProgramOnce) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Terminal terminal(server,
                    "n=0; trap 'n=$((n+1))' INT; echo up; i=0; "
                    "while [ $i -lt 10 ]; do i=$((i+1)); sleep 0.05; done; echo interrupts $n; exit 5");
  ASSERT_TRUE(terminal.shows("up"));
  terminal.type("\x03");
  EXPECT_TRUE(terminal.shows("interrupts 1")) << terminal.seen();
  EXPECT_TRUE(terminal.shows("exit 5")) << terminal.seen();
}

TEST(Terminal, InterruptEndsAProgramThatDoesNotCatchIt) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Terminal terminal(server, "echo up; exec sleep 100");
  ASSERT_TRUE(terminal.shows("up"));
  terminal.type("\x03");
  EXPECT_TRUE(terminal.shows("exit 130")) << terminal.seen();
}

TEST(Terminal, StopAndContinue) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  Terminal terminal(server, "echo up; read line; echo read $line");
  ASSERT_TRUE(terminal.shows("up"));
  terminal.type("\x1a");
  EXPECT_TRUE(terminal.shows("stopped")) << terminal.seen();
  EXPECT_EQ(list(server).gpus[0].leases, 1u) << "a stopped program keeps its lease";
  std::this_thread::sleep_for(100ms);
  terminal.type("hello\n");
  EXPECT_TRUE(terminal.shows("read hello")) << terminal.seen();
  EXPECT_TRUE(terminal.shows("exit 0")) << terminal.seen();
}

TEST(Terminal, HangUpEndsTheProgram) {
  Server server;
  ASSERT_TRUE(server.ready()) << server.log();
  {
    Terminal terminal(server, "echo up; exec sleep 100");
    ASSERT_TRUE(terminal.shows("up"));
  }
  EXPECT_TRUE(eventually(3s, [&] { return list(server).gpus[0].leases == 0; }));
}

}  // namespace
}  // namespace bf::test
