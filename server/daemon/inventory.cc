#include "server/daemon/inventory.h"

#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "base/fd.h"
#include "base/limits.h"
#include "proto/control.h"
#include "server/daemon/process.h"

extern char** environ;

namespace bf::daemon {
namespace {

constexpr auto kProbeTime = std::chrono::seconds(60);  // a cold driver on a machine with many GPUs

// Reads until the end of the stream, at most a control message, within kProbeTime.
Result<std::string> read_all(int fd) {
  auto deadline = std::chrono::steady_clock::now() + kProbeTime;
  std::string text;
  char buffer[4096];
  for (;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd entry{fd, POLLIN, 0};
    if (left <= 0 || ::poll(&entry, 1, int(left)) == 0)
      return Status{StatusCode::kTimeout, "the driver did not answer within a minute"};
    ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status("reading the worker's answer", errno);
    if (got == 0) return text;
    text.append(buffer, size_t(got));
    if (text.size() > limits::kControlBodyBytes)
      return Status{StatusCode::kInvalid, "the worker's answer is too long; is it Backfield's bfworker?"};
  }
}

std::string describe_exit(int status) {
  if (WIFSIGNALED(status)) return "it was ended by signal " + std::to_string(WTERMSIG(status));
  return "it ended with status " + std::to_string(WEXITSTATUS(status));
}

// The drivers' own variables are not passed on: who starts the daemon must not be able to bend the workers by accident.
void pass_on(std::vector<std::string>& environment, std::string_view prefix) {
  for (char** variable = environ; *variable != nullptr; variable++) {
    std::string_view text(*variable);
    if (text.starts_with(prefix)) environment.emplace_back(text);
  }
}

// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  ...": the first word made of digits and dots.
std::string kernel_driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  for (std::string word; file >> word;)
    if (word.find('.') != std::string::npos && word.find_first_not_of("0123456789.") == std::string::npos) return word;
  return {};
}

}  // namespace

Result<WorkerSetup> find_worker(const Options& options) {
  std::error_code error;
  auto library =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path().parent_path() / "lib" / "backfield";
  WorkerSetup setup;
  setup.path = options.worker.empty() ? (library / "bfworker").string() : options.worker;
  if (::access(setup.path.c_str(), X_OK) != 0)
    return Status{StatusCode::kInvalid, "there is no worker at " + setup.path + "; name it with --worker"};
  auto& environment = setup.environment;
  environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/"};
  pass_on(environment, "BF_LOG=");
  std::string driver;
  if (options.software_gpus > 0) {
    driver =
        options.software_driver.empty() ? (library / "software" / "libcuda.so.1").string() : options.software_driver;
    if (options.worker.empty() && ::access(driver.c_str(), R_OK) != 0)
      return Status{StatusCode::kInvalid,
                    "there is no software driver at " + driver + "; name it with --software-driver"};
    pass_on(environment, "BF_SOFTGPU_FAULTS=");
    environment.push_back("BF_NVML=" + (std::filesystem::path(driver).parent_path() / "libnvidia-ml.so.1").string());
    environment.push_back("BF_SOFTGPU_COUNT=" + std::to_string(options.software_gpus));
    environment.push_back("BF_SOFTGPU_MEMORY_MIB=" + std::to_string(options.software_memory_mib));
  }
  environment.push_back("BF_DRIVER=" + driver);
  if (options.gpudirect == "on" && options.rdma != "off" && options.encryption == "never") environment.push_back("BF_GPUDIRECT=on");
  if (::geteuid() == 0) {
    std::string name = options.worker_user.empty() ? "backfield" : options.worker_user;
    if (const passwd* user = ::getpwnam(name.c_str())) {
      environment.push_back("BF_WORKER_UID=" + std::to_string(user->pw_uid));
      environment.push_back("BF_WORKER_GID=" + std::to_string(user->pw_gid));
      setup.user = name;
    } else if (!options.worker_user.empty()) {
      return Status{StatusCode::kInvalid,
                    "there is no user '" + name + "' for workers; create it or change --worker-user"};
    }
  }
  return setup;
}

Result<Inventory> probe(const WorkerSetup& setup, bool software) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return errno_status("making a pipe", errno);
  Fd reading(ends[0]), writing(ends[1]);
  auto pid = spawn_process({setup.path, {"--probe"}, setup.environment, writing.get(), -1});
  if (!pid.ok()) return pid.status();
  writing.reset();
  auto answer = read_all(reading.get());
  if (!answer.ok()) ::kill(*pid, SIGKILL);
  int status = 0;
  while (::waitpid(*pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!answer.ok()) return answer.status();
  auto reply = control::decode_ProbeReply(control::as_bytes(*answer));
  if (!reply.ok()) return reply.status();
  if (reply->status != 0) return control::to_status(reply->status, reply->message);
  if (status != 0 || reply->gpus.empty())
    return Status{StatusCode::kUnavailable,
                  "asking the driver for GPUs failed: " + (status != 0 ? describe_exit(status) : "it found none")};
  Inventory inventory;
  inventory.driver_version = reply->driver_version;
  inventory.software = software;
  inventory.rdma = reply->rdma;
  if (!software) inventory.driver = kernel_driver_version();
  for (auto& gpu : reply->gpus) {
    GpuState state;
    state.capacity_bytes = gpu.free_bytes != 0 ? std::min(gpu.free_bytes, gpu.memory_bytes) : gpu.memory_bytes;
    state.facts = std::move(gpu);
    inventory.gpus.push_back(std::move(state));
  }
  return inventory;
}

}  // namespace bf::daemon
