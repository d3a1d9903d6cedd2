#include "tests/unit/daemon/test_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <thread>

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using control::as_bytes;
using control::deadline_in;

std::string read_line(int fd, std::chrono::milliseconds time) {
  std::string line;
  auto deadline = deadline_in(time);
  for (char c;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd entry{fd, POLLIN, 0};
    if (left <= 0 || poll(&entry, 1, int(left)) <= 0 || read(fd, &c, 1) != 1) return {};
    if (c == '\n') return line;
    line += c;
  }
}

template <typename T>
T checked(Result<T> result) {
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? std::move(*result) : T{};
}

}  // namespace

bool eventually(std::chrono::milliseconds time, const std::function<bool()>& condition) {
  for (auto deadline = deadline_in(time); std::chrono::steady_clock::now() < deadline; std::this_thread::sleep_for(5ms))
    if (condition()) return true;
  return condition();
}

Server::Server(const ServerSettings& settings) {
  static int count = 0;
  log_path_ = testing::TempDir() + "bfserver-" + std::to_string(getpid()) + "-" + std::to_string(count++) + ".log";
  std::vector<std::string> words = {BF_BUILD "/bin/bfserver",
                                    "--foreground",
                                    "--listen",
                                    "127.0.0.1:0",
                                    "--worker",
                                    BF_BUILD "/tests/bf_fake_worker",
                                    "--software-gpus",
                                    std::to_string(settings.gpus),
                                    "--software-memory",
                                    std::to_string(settings.memory_mib),
                                    "--log-level",
                                    "debug"};
  if (settings.dev) words.push_back("--dev");
  words.insert(words.end(), settings.arguments.begin(), settings.arguments.end());
  std::vector<char*> arguments, environment;
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  for (char** variable = environ; *variable != nullptr; variable++) environment.push_back(*variable);
  for (auto& variable : settings.environment) environment.push_back(const_cast<char*>(variable.c_str()));
  environment.push_back(nullptr);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  Fd reading(ends[0]), writing(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, writing.get(), 1);
  posix_spawn_file_actions_addopen(&actions, 2, log_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  EXPECT_EQ(posix_spawn(&pid_, words[0].c_str(), &actions, nullptr, arguments.data(), environment.data()), 0);
  posix_spawn_file_actions_destroy(&actions);
  writing.reset();
  std::string line = read_line(reading.get(), 20s);
  if (size_t colon = line.rfind(':'); colon != std::string::npos) port_ = uint16_t(atoi(line.c_str() + colon + 1));
}

Server::~Server() {
  if (pid_ > 0) {
    ::kill(pid_, SIGTERM);
    ::kill(pid_, SIGTERM);
    int status = wait(5s);
    if (status == -1) {
      ::kill(pid_, SIGKILL);
      wait(5s);
    }
    if (ready()) {
      EXPECT_EQ(status, 0) << "bfserver must end in order";
    }
  }
  if (testing::Test::HasFailure()) fprintf(stderr, "--- bfserver said:\n%s---\n", log().c_str());
  remove(log_path_.c_str());
}

transport::Address Server::tcp() const {
  transport::Address address;
  address.host = "127.0.0.1";
  address.port = port_;
  return address;
}

transport::Address Server::unix_socket() const {
  transport::Address address;
  address.unix_name = "backfield." + std::to_string(port_);
  return address;
}

std::string Server::log() const {
  std::stringstream text;
  text << std::ifstream(log_path_).rdbuf();
  return text.str();
}

void Server::signal(int number) const {
  ASSERT_GT(pid_, 0) << "bfserver has ended already";
  ::kill(pid_, number);
}

int Server::wait(std::chrono::milliseconds time) {
  int status = 0;
  if (!eventually(time, [&] { return waitpid(pid_, &status, WNOHANG) != 0; })) return -1;
  pid_ = -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::vector<pid_t> Server::workers() const {
  std::ifstream file("/proc/" + std::to_string(pid_) + "/task/" + std::to_string(pid_) + "/children");
  std::vector<pid_t> pids;
  for (pid_t pid; file >> pid;) {
    std::ostringstream words;
    words << std::ifstream("/proc/" + std::to_string(pid) + "/cmdline").rdbuf();  // empty if it ends meanwhile
    if (words.str().find("--monitor") == std::string::npos) pids.push_back(pid);
  }
  return pids;
}

size_t Server::open_descriptors() const {
  size_t count = 0;
  DIR* folder = opendir(("/proc/" + std::to_string(pid_) + "/fd").c_str());
  while (folder != nullptr && readdir(folder) != nullptr) count++;
  if (folder != nullptr) closedir(folder);
  return count;
}

Fd dial(const transport::Address& address) { return checked(transport::dial(address, 5s)); }

control::ListReply list(const Server& server) {
  Fd socket = dial(server.tcp());
  return checked(control::decode_ListReply(
      as_bytes(checked(control::round_trip(socket.get(), Opcode::kList, {}, deadline_in(5s))))));
}

uint64_t free_mib(const Server& server, size_t gpu) { return list(server).gpus.at(gpu).free_bytes / kMiB; }

Lease lease(const Server& server, uint32_t gpus, uint64_t memory_mib, double fraction) {
  Lease lease;
  lease.connection = dial(server.tcp());
  control::LeaseRequest request;
  request.gpus = gpus;
  request.memory_bytes = memory_mib * kMiB;
  request.fraction = fraction;
  request.program = "test";
  lease.reply = take_lease(lease.connection.get(), request);
  return lease;
}

control::ReserveReply reserve(int connection, const control::LeaseRequest& request) {
  std::string body = checked(
      control::round_trip(connection, Opcode::kReserve, control::encode_LeaseRequest(request), deadline_in(5s)));
  return checked(control::decode_ReserveReply(as_bytes(body)));
}

control::LeaseReply take_lease(int connection, const control::LeaseRequest& request) {
  control::ReserveReply reserved = reserve(connection, request);
  if (reserved.status != 0) {
    control::LeaseReply refused;
    refused.status = reserved.status;
    refused.message = reserved.message;
    return refused;
  }
  std::string body = checked(control::round_trip(
      connection, Opcode::kLease, control::encode_CommitRequest({reserved.reservation_id}), deadline_in(5s)));
  return checked(control::decode_LeaseReply(as_bytes(body)));
}

Session attach(const Server& server, const control::LeaseReply& lease, const std::string& program, bool local) {
  Session session;
  session.socket = dial(local ? server.unix_socket() : server.tcp());
  control::AttachRequest request;
  request.protocol = control::kProtocolVersion;
  request.lease_id = lease.lease_id;
  request.pid = uint32_t(getpid());
  request.program = program;
  request.transport = local ? "shm" : "tcp";
  request.api_version = 13000;
  auto admission = control::attach(session.socket.get(), request, lease.secret, deadline_in(5s));
  session.status = admission.status();
  if (admission.ok()) session.admission = std::move(*admission);
  return session;
}

Status join(const Server& server, const Session& session, uint32_t index, Fd* socket) {
  *socket = dial(server.tcp());
  return control::join(socket->get(), session.admission, index, deadline_in(5s));
}

bool echoes(const Session& session) {
  char text[5] = {};
  return send(session.socket.get(), "ping", 4, MSG_NOSIGNAL) == 4 &&
         control::receive_exactly(session.socket.get(), text, 4, deadline_in(5s)).ok() && std::string(text) == "ping";
}

bool closes(int socket, std::chrono::milliseconds time) {
  char byte;
  Status status;
  auto deadline = deadline_in(time);
  while ((status = control::receive_exactly(socket, &byte, 1, deadline)).ok()) {
  }
  return status.code() == StatusCode::kUnavailable;
}

}  // namespace bf::test
