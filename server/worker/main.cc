// bfworker: the process in which one client's calls meet the CUDA driver.
//
// bfserver starts it (never a person) in one of three ways:
//   bfworker --probe                   describe the GPUs on standard output and end
//   bfworker --control-fd N --monitor  ask NVML, for all clients (monitor.h)
//   bfworker --control-fd N [--warm]   serve one session: with --warm make the driver ready first and say so (Ready),
//                                      then wait for Assign, shake hands with the client, enter the sandbox, serve, end
// It ends when its session does, when bfserver closes the control socket, or by any signal. It never tidies the driver
// up on the way out: the kernel frees all of it, also when the GPU hangs.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <thread>

#include "base/log.h"
#include "proto/control_channel.h"
#include "proto/supervise.h"
#include "server/worker/driver_library.h"
#include "server/worker/monitor.h"
#include "server/worker/probe.h"
#include "server/worker/sandbox.h"
#include "server/worker/session.h"
#include "transport/rdma.h"

namespace bf::server {
namespace {

constexpr int kUsage = 2;

// Ends the process without destructors: threads may be inside the driver.
[[noreturn]] void leave(int status) { _exit(status); }

[[noreturn]] void fail(const Status& status) {
  BF_ERROR("worker: {}", status.message());
  leave(1);
}

// The session that we were started for, or given, never began.
[[noreturn]] void give_up(int control, const Status& why, bool lost) {
  (void)supervise::send(control, supervise::Kind::kReport,
                        control::encode_WorkerReport({.reason = why.message(), .lost = lost}));
  fail(why);
}

int run_probe() {
  const std::string reply = control::encode_ProbeReply(probe());
  const bool written = fwrite(reply.data(), 1, reply.size(), stdout) == reply.size() && fflush(stdout) == 0;
  return written ? 0 : 1;
}

struct Assignment {
  control::Assign assign;
  Fd client;
  Fd ledger;
  Fd images;  // none: bfserver keeps no image cache
};

// Waits as long as it takes: a warm worker has no client yet.
Assignment await_assignment(int control) {
  auto message = supervise::receive(control);
  if (!message.ok()) leave(0);  // bfserver is gone, or does not want us
  if (message->kind != supervise::Kind::kAssign || message->fds.size() < 2 || message->fds.size() > 3)
    fail(Status(StatusCode::kInvalid, "bfserver sent something that is not an assignment"));
  auto assign = control::decode_Assign(control::as_bytes(message->body));
  if (!assign.ok()) fail(assign.status());
  return {std::move(*assign), std::move(message->fds[0]), std::move(message->fds[1]),
          message->fds.size() > 2 ? std::move(message->fds[2]) : Fd()};
}

// Where the session's queue pairs may connect, while its client has not chosen another way.
struct RdmaOffer {
  std::unique_ptr<transport::RdmaListener> listener;
  std::string note;  // why there is none
};

// Before the sandbox: devices are opened, and the limit on pinned memory is lifted where bfserver may do that.
RdmaOffer offer_rdma(const control::Assign& assign) {
  if (assign.transport != "rdma") return {};
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  (void)setrlimit(RLIMIT_MEMLOCK, &unlimited);
  auto listener = transport::RdmaListener::open(assign.rdma_address, assign.session_key);
  if (listener.ok()) return {std::move(*listener), {}};
  return {nullptr, listener.status().message()};
}

Status reply_to_attach(const Assignment& assignment, const Status& status, control::Deadline deadline,
                       const RdmaOffer& rdma = {}) {
  control::AttachReply reply;
  reply.status = uint32_t(status.code());
  reply.message = status.message();
  if (status.ok()) {
    reply.session_id = assignment.assign.session_id;
    reply.channels = assignment.assign.channels;
    reply.rdma_port = rdma.listener ? rdma.listener->port() : 0;
    reply.rdma_address = assignment.assign.rdma_address;
    reply.rdma_note = rdma.note;
  }
  return control::send_frame(assignment.client.get(), Opcode::kAttach, kReply, control::encode_AttachReply(reply), {},
                             deadline);
}

// tcp: the further connections of the session, side stream first. bfserver has checked who they are.
Result<std::unique_ptr<transport::Link>> gather_channels(int control, Assignment& assignment,
                                                         control::Deadline deadline) {
  const uint32_t count = assignment.assign.channels;
  if (count < 2 || count > limits::kTcpChannels) return Status(StatusCode::kInvalid, "a wrong number of channels");
  std::vector<Fd> channels(count);
  for (uint32_t have = 0; have < count;) {
    auto message = supervise::receive(control, deadline);
    if (!message.ok()) return message.status();
    if (message->kind != supervise::Kind::kChannel || message->fds.size() != 1) continue;
    const auto channel = control::decode_Channel(control::as_bytes(message->body));
    if (!channel.ok()) return channel.status();
    const uint32_t index = channel.value().index;
    if (index >= count || channels[index]) return Status(StatusCode::kInvalid, "a channel came twice");
    BF_RETURN_IF_ERROR(
        control::send_frame(message->fds[0].get(), Opcode::kJoin, kReply, control::encode_JoinReply({}), {}, deadline));
    channels[index] = std::move(message->fds[0]);
    ++have;
  }
  std::vector<Fd> bulk;
  for (uint32_t i = 1; i < count; ++i) bulk.push_back(std::move(channels[i]));
  if (assignment.assign.encrypt) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    return transport::make_tls_link(std::move(assignment.client), std::move(channels[0]), std::move(bulk),
                                    assignment.assign.session_key, transport::End::kWorker, left);
  }
  return transport::make_tcp_link(std::move(assignment.client), std::move(channels[0]), std::move(bulk), transport::End::kWorker);
}

// A client that was offered RDMA connects its queue pairs, or joins over tcp if it cannot: the first channel that
// bfserver passes on decides.
Result<std::unique_ptr<transport::Link>> gather_remote(int control, Assignment& assignment, RdmaOffer& rdma,
                                                     control::Deadline deadline) {
  auto left = [&] {
    return std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  };
  if (rdma.listener) {
    pollfd ways[] = {{rdma.listener->fd(), POLLIN, 0}, {control, POLLIN, 0}, {assignment.client.get(), POLLRDHUP, 0}};
    while (poll(ways, std::size(ways), int(std::max<int64_t>(0, left().count()))) < 0 && errno == EINTR) {
    }
    if (ways[0].revents != 0) {
      auto link = rdma.listener->accept(assignment.client, control, left());
      if (link.ok()) return link;
      BF_INFO("the session's RDMA connection failed: {}", link.status().message());
    }
    rdma.listener.reset();
  }
  return gather_channels(control, assignment, deadline);
}

// The driver shows the session's devices, in the session's order: bfserver set CUDA_VISIBLE_DEVICES.
Status check_devices(const DriverApi& api, const std::vector<control::WorkerDevice>& devices) {
  int count = 0;
  api.cuDeviceGetCount(&count);
  if (size_t(count) < devices.size() || devices.empty() || devices.size() > limits::kDevices) {
    return Status(StatusCode::kInvalid,
                  fmt::format("the lease has {} GPUs, and the driver shows {}", devices.size(), count));
  }
  return {};
}

void watch_bfserver(int control) {
  std::thread([control] {
    pthread_setname_np(pthread_self(), "bf-watch");
    pollfd entry{control, 0, 0};  // hang-up only
    while (poll(&entry, 1, -1) < 0 && errno == EINTR) {
    }
    leave(0);
  }).detach();
}

int serve(int control, bool warm) {
  prctl(PR_SET_TIMERSLACK, 1);  // ns; also of all threads to come, which poll the GPU with short sleeps
  auto driver = load_driver();
  if (!driver.ok()) give_up(control, driver.status(), true);
  const DriverApi& api = driver->api;
  // Never destroyed: the driver may use its memory until the process has ended.
  auto* prepared = new Prepared(api, DeviceStaging::wanted());
  const auto make_ready = [&]() -> Status {
    const CUresult result = prepared->warm();
    if (result == CUDA_SUCCESS) return {};
    return Status(StatusCode::kUnavailable, fmt::format("the GPU cannot be used: {}", describe(api, result)));
  };
  if (const CUresult result = prepared->start(); result != CUDA_SUCCESS)
    give_up(control, Status(StatusCode::kUnavailable, describe(api, result)), true);
  if (warm) {
    if (Status status = make_ready(); !status.ok()) give_up(control, status, true);
    if (!supervise::send(control, supervise::Kind::kReady, control::encode_Ready({})).ok()) leave(0);
  }
  Assignment assignment = await_assignment(control);
  const auto soon = [] { return control::deadline_in(std::chrono::milliseconds(limits::kHandshakeTimeoutMs)); };
  const auto refuse = [&](const Status& status) {
    (void)reply_to_attach(assignment, status, soon());
    give_up(control, status, true);
  };
  if (Status status = check_devices(api, assignment.assign.devices); !status.ok()) refuse(status);
  if (!warm)
    if (Status status = make_ready(); !status.ok()) refuse(status);
  auto ledger = Ledger::open(std::move(assignment.ledger));
  if (!ledger.ok()) refuse(ledger.status());
  if (std::ranges::any_of(assignment.assign.devices, [&](const auto& device) { return device.partition >= ledger->devices(); }))
    refuse(Status(StatusCode::kInternal, "the ledger has fewer partitions than the lease"));
  auto prints = Prints::capture();
  if (!prints.ok()) refuse(prints.status());
  RdmaOffer rdma = offer_rdma(assignment.assign);
  if (Status status = enter_sandbox(); !status.ok()) refuse(status);
  watch_bfserver(control);

  // From here on, bytes of the client are read.
  SessionConfig config;
  for (const auto& device : assignment.assign.devices)
    config.devices.push_back({device.limit_bytes, device.context_bytes, device.partition});
  config.ledger = &*ledger;
  config.ledger_slot = assignment.assign.ledger_slot;
  config.software = driver->software;
  const unsigned processors = std::thread::hardware_concurrency();
  config.spin_us = processors > 8 ? 200 : processors > 2 ? 50 : 0;
  config.prints = &*prints;
  config.image_salt = assignment.assign.image_salt;
  std::optional<ImageStore> images;
  if (assignment.images) config.images = &images.emplace(std::move(assignment.images));
  config.report = [control](const control::WorkerReport& report) {
    (void)supervise::send(control, supervise::Kind::kReport, control::encode_WorkerReport(report));
  };
  config.ended = [](const Status& why) {
    if (why.code() == StatusCode::kInvalid) BF_WARN("session ended: {}", why.message());
    leave(0);
  };
  const bool shm = assignment.assign.transport == "shm";
  const auto end = [&](const Status& status) { give_up(control, status, !client_left(status)); };
  const auto deadline = soon();
  if (Status status = reply_to_attach(assignment, {}, deadline, rdma); !status.ok()) end(status);
  auto link = shm ? transport::offer_shm_link(std::move(assignment.client))
                  : gather_remote(control, assignment, rdma, deadline);
  if (!link.ok()) end(link.status());
  if (Status status = serve_session(**link, *prepared, config); !status.ok()) end(status);
  return 0;
}

// As an unprivileged user from the start: what NVML refuses to that user it is to refuse to clients.
[[noreturn]] void monitor(int control) {
  if (Status status = enter_sandbox(); !status.ok()) fail(status);
  watch_bfserver(control);
  Status status = run_monitor(control);
  BF_WARN("monitor: {}", status.message());
  leave(1);
}

}  // namespace
}  // namespace bf::server

int main(int count, char** arguments) {
  bf::set_log_level(bf::parse_log_level(getenv("BF_LOG") ? getenv("BF_LOG") : "", bf::LogLevel::kInfo));
  int control = -1;
  bool warm = false, probe = false, monitor = false, wrong = false;
  for (int i = 1; i < count; ++i) {
    if (strcmp(arguments[i], "--probe") == 0) {
      probe = true;
    } else if (strcmp(arguments[i], "--monitor") == 0) {
      monitor = true;
    } else if (strcmp(arguments[i], "--warm") == 0) {
      warm = true;
    } else if (strcmp(arguments[i], "--control-fd") == 0 && i + 1 < count) {
      control = atoi(arguments[++i]);
    } else {
      wrong = true;
    }
  }
  if (wrong || probe == (control >= 0)) {
    fprintf(stderr, "bfworker is started by bfserver; by hand only 'bfworker --probe' is useful\n");
    return bf::server::kUsage;
  }
  if (probe) bf::server::leave(bf::server::run_probe());
  fcntl(control, F_SETFD, FD_CLOEXEC);
  if (monitor) bf::server::monitor(control);
  bf::server::leave(bf::server::serve(control, warm));
}
