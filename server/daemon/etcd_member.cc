#include "server/daemon/etcd_member.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "server/daemon/log.h"
#include "server/daemon/process.h"
#include "transport/transport.h"

namespace bf::daemon {
namespace {

// Where `name` is, in PATH or where distributions put it; empty if it is not.
std::string find_program(const std::string& name) {
  const char* path = ::getenv("PATH");
  std::istringstream folders((path == nullptr ? std::string() : path + std::string(":")) + "/usr/local/bin:/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');)
    if (!folder.empty() && ::access((folder + "/" + name).c_str(), X_OK) == 0) return folder + "/" + name;
  return {};
}

// etcd listens on numbers only; behind a name it listens everywhere.
std::string listen_url(const ClusterConfig::Member& member, uint16_t port) {
  in6_addr binary;
  bool numeric = ::inet_pton(AF_INET, member.host.c_str(), &binary) == 1 || ::inet_pton(AF_INET6, member.host.c_str(), &binary) == 1;
  return "https://" + transport::Address{numeric ? member.host : "0.0.0.0", port, {}}.to_string();
}

}  // namespace

EtcdMember::EtcdMember(EventLoop& loop, ClusterConfig::Member member, std::string state_dir)
    : loop_(loop), member_(std::move(member)), state_dir_(std::move(state_dir)) {}

EtcdMember::~EtcdMember() {
  loop_.cancel(restart_);
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  for (auto end = std::chrono::steady_clock::now() + kEndTime; std::chrono::steady_clock::now() < end;) {
    if (::waitpid(pid_, nullptr, WNOHANG) != 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Status EtcdMember::start() {
  const std::string etcd = find_program("etcd"), setpriv = find_program("setpriv");
  if (etcd.empty()) return {StatusCode::kInvalid, "etcd is not installed here: apt-get install etcd-server, or use an etcd of your own with --etcd URL"};
  const std::string certificate = state_dir_ + "/etcd.pem", key = state_dir_ + "/etcd-key.pem", ca = state_dir_ + "/ca.pem";
  ProcessSpec spec;
  spec.path = setpriv.empty() ? etcd : setpriv;
  if (!setpriv.empty()) spec.arguments = {"--pdeathsig", "KILL", etcd};
  std::vector<std::string> arguments = {
      "--name", member_.name, "--data-dir", state_dir_ + "/etcd",
      "--listen-client-urls", listen_url(member_, member_.port), "--advertise-client-urls", member_.client_url(),
      "--listen-peer-urls", listen_url(member_, uint16_t(member_.port + 1)), "--initial-advertise-peer-urls", member_.peer_url(),
      "--initial-cluster", member_.initial_cluster, "--initial-cluster-state", member_.first ? "new" : "existing",
      "--cert-file", certificate, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth",
      "--peer-cert-file", certificate, "--peer-key-file", key, "--peer-trusted-ca-file", ca, "--peer-client-cert-auth",
      // Old revisions are of no use to a pool, and would fill the disk.
      "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h", "--logger", "zap", "--log-outputs", "stderr", "--log-level", "error"};
  spec.arguments.insert(spec.arguments.end(), arguments.begin(), arguments.end());
  spec.environment = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent"};
  auto pid = spawn_process(spec);
  if (!pid.ok()) return pid.status();
  pid_ = *pid;
  return {};
}

void EtcdMember::reap() {
  int how = 0;
  if (pid_ <= 0 || ::waitpid(pid_, &how, WNOHANG) != pid_) return;
  pid_ = -1;
  log::warn("etcd has ended ({} {}); starting it again", WIFSIGNALED(how) ? "signal" : "status", WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
  restart_ = loop_.after(kPause, [this] {
    if (Status started = start(); !started.ok()) log::error("{}", started.message());
  });
}

}  // namespace bf::daemon
