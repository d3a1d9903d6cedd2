// Stands in for bfworker: speaks its part of proto/supervise.h without a driver. What a session does is told by the
// program name of the AttachRequest:
//   busy      as echo, and says once a second that a call has not returned yet
//   echo      sends back every byte, ends with the client
//   charge    charges 64 MiB on device 0, says so (one byte, 1 or 0), then as echo
//   stubborn  ignores SIGTERM and the client's end
//   crash     answers the attach and dies of SIGSEGV
//   die       dies of SIGKILL at the first byte from the client
//   linger    the same, half a second later
//   violate   says that the first byte from the client broke the protocol, and ends
// With --monitor it answers every question with one answer per GPU, of function 1, whose value counts the samples.
// Environment: BF_SOFTGPU_COUNT, BF_SOFTGPU_MEMORY_MIB as the software driver; BF_SOFTGPU_FAULTS=probe makes the probe
// fail, =warm makes warm workers die at once, =monitor makes the monitor die of its first question.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "proto/control.h"
#include "proto/control_channel.h"
#include "proto/supervise.h"
#include "server/ledger.h"

namespace {

using namespace bf;

constexpr uint64_t kMiB = 1 << 20;

uint64_t number(const char* name, uint64_t fallback) {
  const char* text = getenv(name);
  return text != nullptr ? strtoull(text, nullptr, 10) : fallback;
}

bool fault(const char* name) {
  const char* text = getenv("BF_SOFTGPU_FAULTS");
  return text != nullptr && strcmp(text, name) == 0;
}

std::string uuid(uint32_t gpu) { return "GPU-00000000-0000-0000-0000-00000000000" + std::to_string(gpu); }

int probe() {
  control::ProbeReply reply;
  if (fault("probe")) {
    reply.status = uint32_t(StatusCode::kUnavailable);
    reply.message = "the driver is on strike";
  }
  reply.driver_version = 13000;
  for (uint32_t i = 0; i < number("BF_SOFTGPU_COUNT", 1); i++) {
    control::Gpu gpu;
    gpu.index = i;
    gpu.name = "Fake GPU";
    gpu.uuid = uuid(i);
    gpu.memory_bytes = gpu.free_bytes = number("BF_SOFTGPU_MEMORY_MIB", 1024) * kMiB;
    gpu.context_bytes = 16 * kMiB;
    gpu.healthy = true;
    reply.gpus.push_back(gpu);
  }
  std::string body = control::encode_ProbeReply(reply);
  return write(STDOUT_FILENO, body.data(), body.size()) == ssize_t(body.size()) ? 0 : 1;
}

void answer(const control::Assign& session, int client) {
  control::AttachReply reply;
  reply.session_id = session.session_id;
  reply.channels = session.channels;
  (void)control::send_frame(client, Opcode::kAttach, kReply, control::encode_AttachReply(reply), {},
                            control::deadline_in(std::chrono::seconds(5)));
}

// Echoes on the call stream; answers joins; ends when either peer does.
void serve(int supervisor, int client, const std::string& program) {
  for (;;) {
    pollfd entries[2] = {{supervisor, POLLIN, 0}, {client, POLLIN, 0}};
    if (program == "busy")
      (void)supervise::send(supervisor, supervise::Kind::kReport, control::encode_WorkerReport({.reason = {}, .outstanding = 1}));
    if (poll(entries, 2, 1000) <= 0) continue;
    if (entries[0].revents != 0) {
      auto message = supervise::receive(supervisor);
      if (!message.ok()) return;
      if (message->kind != supervise::Kind::kChannel) continue;
      (void)control::send_frame(message->fds[0].get(), Opcode::kJoin, kReply, control::encode_JoinReply({}), {},
                                control::deadline_in(std::chrono::seconds(5)));
      (void)message->fds[0].release();  // open until we end
    }
    if (entries[1].revents != 0) {
      char buffer[4096];
      ssize_t got = read(client, buffer, sizeof buffer);
      if (got <= 0) return;
      if (program == "linger") usleep(500'000);
      if (program == "die" || program == "linger") raise(SIGKILL);
      if (program == "violate") {
        control::WorkerReport report{.calls = 7, .reason = "the client broke the protocol", .lost = true};
        (void)supervise::send(supervisor, supervise::Kind::kReport, control::encode_WorkerReport(report));
        _exit(0);
      }
      if (write(client, buffer, size_t(got)) != got) return;
    }
  }
}

int work(int supervisor, bool warm) {
  if (warm && fault("warm")) return 3;
  if (warm) (void)supervise::send(supervisor, supervise::Kind::kReady, {});
  auto message = supervise::receive(supervisor);
  if (!message.ok()) return 0;
  auto session = control::decode_Assign(control::as_bytes(message->body));
  if (!session.ok() || message->fds.size() != 2) return 4;
  int client = message->fds[0].get();
  if (fcntl(client, F_GETFL) & O_NONBLOCK) return 5;
  auto ledger = server::Ledger::open(std::move(message->fds[1]));
  if (!ledger.ok()) return 6;
  const std::string& program = session->program;
  if (program == "stubborn") signal(SIGTERM, SIG_IGN);
  if (program == "crash") signal(SIGSEGV, SIG_DFL);
  answer(*session, client);
  if (program == "crash") raise(SIGSEGV);
  if (program == "charge") {
    char done = ledger->charge(session->ledger_slot, 0, 64 * kMiB);
    if (write(client, &done, 1) != 1) return 7;
  }
  serve(supervisor, client, program);
  while (program == "stubborn") pause();
  (void)supervise::send(supervisor, supervise::Kind::kReport,
                        control::encode_WorkerReport({.calls = 7, .reason = "client left"}));
  return 0;
}

int monitor(int supervisor) {
  for (uint32_t samples = 1;; samples++) {
    auto message = supervise::receive(supervisor);
    if (!message.ok()) return 0;
    auto request = control::decode_MonitorRequest(control::as_bytes(message->body));
    if (!request.ok() || fault("monitor")) return 8;
    for (uint32_t i = 0; i < number("BF_SOFTGPU_COUNT", 1); i++) {
      control::MonitorReport report;
      report.uuid = uuid(i);
      report.index = i;
      if (samples == 1) report.facts = control::encode_NvmlAnswers({{{1, i, 0, 0, 0, 0, "fact"}}});
      report.sample = control::encode_NvmlAnswers({{{1, i, 1, 0, 0, 0, std::to_string(samples)}}});
      report.last = i + 1 == number("BF_SOFTGPU_COUNT", 1);
      (void)supervise::send(supervisor, supervise::Kind::kReading, control::encode_MonitorReport(report));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  int supervisor = -1;
  bool warm = false, monitors = false;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--probe") == 0) return probe();
    if (strcmp(argv[i], "--warm") == 0) warm = true;
    if (strcmp(argv[i], "--monitor") == 0) monitors = true;
    if (strcmp(argv[i], "--control-fd") == 0 && i + 1 < argc) supervisor = atoi(argv[++i]);
  }
  if (monitors) return monitor(supervisor);
  return supervisor < 0 ? 2 : work(supervisor, warm);
}
