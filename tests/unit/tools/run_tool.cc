#include "tests/unit/tools/run_tool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/hex.h"

namespace bf::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class Prefix {
 public:
  Prefix() : path_(fs::path(testing::TempDir()) / ("backfield-" + std::to_string(getpid()))) {
    fs::create_directories(path_ / "bin");
    fs::create_directories(path_ / "lib/backfield");
    for (auto tool : {"bfrun", "bf", "bfserver"}) fs::copy_file(fs::path(BF_BUILD "/bin") / tool, path_ / "bin" / tool);
    std::ofstream(path_ / "lib/backfield/libcuda.so.1");
    text_ = path_.string();
  }
  ~Prefix() { fs::remove_all(path_); }
  const std::string& text() const { return text_; }

 private:
  fs::path path_;
  std::string text_;
};

}  // namespace

const std::string& prefix() {
  static Prefix prefix;
  return prefix.text();
}

Started start_tool(const std::vector<std::string>& words, const std::vector<std::string>& extra) {
  std::vector<std::string> line = words;
  line[0] = prefix() + "/bin/" + words[0];
  std::vector<char*> arguments, environment;
  for (auto& word : line) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  for (auto& variable : extra) environment.push_back(const_cast<char*>(variable.c_str()));
  for (char** variable = environ; *variable != nullptr; variable++) environment.push_back(*variable);
  environment.push_back(nullptr);
  int out[2], err[2];
  EXPECT_EQ(pipe2(out, O_CLOEXEC) | pipe2(err, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  posix_spawn_file_actions_adddup2(&actions, err[1], 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  Started started;
  EXPECT_EQ(posix_spawn(&started.pid, arguments[0], &actions, &attributes, arguments.data(), environment.data()), 0);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  close(err[1]);
  started.out = out[0];
  started.err = err[0];
  return started;
}

Finished finish(Started started, std::chrono::milliseconds time) {
  Finished finished;
  auto deadline = Clock::now() + time;
  pollfd entries[2] = {{started.out, POLLIN, 0}, {started.err, POLLIN, 0}};
  std::string* texts[2] = {&finished.out, &finished.err};
  while (entries[0].fd >= 0 || entries[1].fd >= 0) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0 || poll(entries, 2, int(left)) <= 0) break;
    for (int i = 0; i < 2; i++) {
      if (entries[i].revents == 0) continue;
      char buffer[4096];
      ssize_t got = read(entries[i].fd, buffer, sizeof buffer);
      if (got > 0)
        texts[i]->append(buffer, size_t(got));
      else
        entries[i].fd = -1;
    }
  }
  int status = 0;
  while (waitpid(started.pid, &status, WNOHANG) == 0) {
    if (Clock::now() > deadline) {
      kill(-started.pid, SIGKILL);
      waitpid(started.pid, &status, 0);
      status = -1;
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  if (status != -1) finished.status = WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
  close(started.out);
  close(started.err);
  return finished;
}

Finished run_tool(const std::vector<std::string>& words, const std::vector<std::string>& environment) {
  return finish(start_tool(words, environment), std::chrono::seconds(20));
}

std::vector<std::string> reveal_lease(const std::string& then) {
  return {"sh", "-c", "echo $BF_LEASE; echo $BF_LEASE_SECRET; " + then};
}

control::LeaseReply revealed_lease(const Started& started) {
  control::LeaseReply lease;
  lease.lease_id = next_line(started.out);
  lease.secret = from_hex(next_line(started.out)).value_or("");
  EXPECT_EQ(lease.secret.size(), control::kSecretBytes);
  return lease;
}

std::string next_line(int fd, std::chrono::milliseconds time) {
  std::string line;
  auto deadline = Clock::now() + time;
  for (;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{fd, POLLIN, 0};
    char c;
    if (left <= 0 || poll(&entry, 1, int(left)) <= 0 || read(fd, &c, 1) != 1) return line;
    if (c == '\n') return line;
    if (c != '\r') line += c;
  }
}

}  // namespace bf::test
