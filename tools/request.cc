#include "tools/request.h"

#include <poll.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/hex.h"
#include "base/limits.h"
#include "tools/program.h"
#include "tools/servers.h"
#include "tools/trace_file.h"

namespace bf::tools {
namespace {

void complain(const std::string& tool, const std::string& message) {
  fprintf(stderr, "%s: %s\n", tool.c_str(), message.c_str());
}

// On a terminal: one line that says why we wait, and that is wiped when it is over.
class Progress {
 public:
  explicit Progress(std::string tool) : tool_(std::move(tool)) {}
  void show(const std::string& why) {
    if (!::isatty(STDERR_FILENO)) return;
    std::string line = tool_ + ": waiting for a GPU (" + why + ")";
    if (line.size() > 78) line = line.substr(0, 75) + "...";
    fprintf(stderr, "\r\033[K%s", line.c_str());
    shown_ = true;
  }
  void wipe() {
    if (shown_) fputs("\r\033[K", stderr);
    shown_ = false;
  }

 private:
  const std::string tool_;
  bool shown_ = false;
};

// The folder of the shim, beside this program.
std::string library_folder() {
  std::error_code error;
  auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path().parent_path() / "lib" / "backfield").string();
}

control::LeaseRequest lease_request(const RequestOptions& options, const std::string& program) {
  control::LeaseRequest request;
  request.gpus = options.gpus;
  request.memory_bytes = options.memory_mib << 20;
  request.fraction = options.fraction;
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  request.client_name = host;
  request.client_pid = uint32_t(::getpid());
  request.program = std::filesystem::path(program).filename().string();
  return request;
}

// What the server says on the connection of a lease that is in use.
class Ear {
 public:
  Ear(std::string tool, Remote& remote) : tool_(std::move(tool)), remote_(remote) {}

  Heard listen() {
    auto frame = remote_.overhear();
    if (!frame.ok()) return lease_ended(frame.status().code() == StatusCode::kUnavailable ? "" : frame.status().message());
    if (!frame->has_value()) return Heard::kNothing;
    const control::Bytes body = control::as_bytes((*frame)->body);
    switch ((*frame)->opcode) {
      case Opcode::kError: {
        auto error = control::decode_ErrorReply(body);
        return lease_ended(error.ok() ? error->message : "");
      }
      case Opcode::kSessionLost:
        if (auto lost = control::decode_SessionLost(body); lost.ok()) session_lost(*lost);
        return Heard::kSomething;
      case Opcode::kSettle:
        settled_ = true;
        return Heard::kSomething;
      default:  // a newer server's
        return Heard::kSomething;
    }
  }

  // The program is over, and something went wrong. If its worker was lost it may have ended before the server knew.
  void listen_to_the_end() {
    auto deadline = control::deadline_in(kSettleTime);
    if (!over_) (void)control::send_frame(remote_.wire(), Opcode::kSettle, 0, {}, {}, deadline);
    while (!over_ && !settled_ && std::chrono::steady_clock::now() < deadline)
      if (listen() == Heard::kNothing) (void)control::wait_for(remote_.fd(), POLLIN, deadline);
  }

 private:
  static constexpr auto kSettleTime = std::chrono::milliseconds(1000);

  Heard lease_ended(const std::string& why) {
    over_ = true;
    complain(tool_, "the server " + remote_.server().to_string() + " ended the lease" +
                        (why.empty() ? "" : ": " + printable(why)) + "; CUDA calls of the program fail from now on");
    return Heard::kEnd;
  }
  void session_lost(const control::SessionLost& lost) {
    std::string calls = lost.calls == 0 ? "" : " after at least " + std::to_string(lost.calls) + " calls";
    complain(tool_, "the server " + remote_.server().to_string() + " lost the worker of " + printable(lost.program) + " (process " +
                        std::to_string(lost.pid) + ")" + calls + ": " + printable(lost.why) +
                        "; its CUDA calls fail from now on (CUDA_ERROR_DEVICE_UNAVAILABLE)");
  }

  const std::string tool_;
  Remote& remote_;
  bool over_ = false;
  bool settled_ = false;
};

}  // namespace

std::string enter_lease(const Borrowed& borrowed, const std::string& transport) {
  const std::string library = library_folder();
  const char* before = getenv("LD_LIBRARY_PATH");
  std::string path = before != nullptr && *before != '\0' ? library + ":" + before : library;
  setenv("LD_LIBRARY_PATH", path.c_str(), 1);
  setenv("BF_SERVER", borrowed.remote->server().to_string().c_str(), 1);
  setenv("BF_LEASE", borrowed.lease.lease_id.c_str(), 1);
  setenv("BF_LEASE_SECRET", to_hex(borrowed.lease.secret).c_str(), 1);
  setenv("BF_TRANSPORT", transport.c_str(), 1);
  setenv("BF_ENCRYPT", borrowed.lease.encrypt ? "1" : "0", 1);
  return library;
}

void describe(CLI::App& app, ServerOptions& options) {
  app.add_option("--server", options.servers, "This server; repeatable")
      ->expected(1, 1024)
      ->allow_extra_args(false)
      ->type_name("HOST[:PORT]");
  app.add_option("--servers", options.servers_file, "The servers in this file, one host[:port] per line")
      ->type_name("FILE");
}

void describe(CLI::App& app, RequestOptions& o) {
  app.add_option("-n,--gpus", o.gpus, "How many GPUs, all of one server (default 1)")
      ->check(CLI::Range(1u, limits::kDevices))
      ->type_name("N");
  auto* memory = app.add_option("-m,--memory", o.memory_mib, "MiB of memory on each (default: whole GPUs)")
                     ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 24))
                     ->type_name("MIB");
  app.add_option("-p,--fraction", o.fraction, "Share of each instead of MiB, such as 0.25")
      ->check(CLI::Range(0.001, 1.0))
      ->type_name("FRACTION")
      ->excludes(memory);
  describe(app, o.where);
  app.add_option("--filter", o.filters, "Only GPUs and servers like this, such as device.memory>=40000; repeatable")
      ->expected(1, 64)
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  app.add_option("--policy", o.policy, "auto (default), pack (the tightest fit) or spread (the emptiest)")
      ->check(CLI::IsMember({"auto", "pack", "spread"}))
      ->type_name("NAME");
  app.add_option("--timeout", o.timeout_s, "How long to wait while all servers are busy; 0: not at all (default: for ever)")
      ->check(CLI::Range(0.0, 1e7))
      ->type_name("SECONDS");
}

Result<Borrowed> request_gpus(const std::string& tool, const RequestOptions& options, const std::string& program,
                              bool detached, uint64_t ttl_ms) {
  Wish wish{.request = lease_request(options, program)};
  wish.request.detached = detached;
  wish.request.ttl_ms = ttl_ms;
  wish.policy = options.policy == "pack" ? Policy::kPack : options.policy == "spread" ? Policy::kSpread : Policy::kAuto;
  for (auto& text : options.filters) {
    auto filter = Filter::parse(text);
    if (!filter.ok()) return filter.status();
    wish.filters.push_back(std::move(*filter));
  }
  if (options.timeout_s) wish.deadline = control::deadline_in(std::chrono::milliseconds((long long)(*options.timeout_s * 1000)));
  auto servers = find_servers(options.where.servers, options.where.servers_file);
  if (!servers.ok()) return Status{StatusCode::kUnavailable, servers.status().message()};
  Progress progress(tool);
  auto borrowed = borrow(*servers, wish,
                         {.waiting = [&](const std::string& why) { progress.show(why); },
                          .warning =
                              [&](const std::string& what) {
                                progress.wipe();
                                complain(tool, "warning: " + what);
                              }});
  progress.wipe();
  return borrowed;
}

int status_of(const Status& why) {
  if (why.code() == StatusCode::kExhausted) return kTryAgain;
  return why.code() == StatusCode::kInvalid ? 2 : kBackfieldFailed;
}

int check_command(const std::string& tool, const std::vector<std::string>& command) {
  if (int status = check_program(command[0]); status != 0) {
    complain(tool, command[0] + (status == kNotFound ? ": not found" : ": cannot be executed"));
    return status;
  }
  std::string library = library_folder();
  if (::access((library + "/libcuda.so.1").c_str(), R_OK) == 0) return 0;
  complain(tool, "there is no libcuda.so.1 in " + library + "; is Backfield installed completely?");
  return kBackfieldFailed;
}

int run_on(const std::string& tool, const Borrowed& borrowed, const std::string& transport,
           const std::vector<std::string>& command) {
  if (transport == "rdma" && borrowed.lease.encrypt) return complain(tool, kNoPlainSessions), kBackfieldFailed;
  enter_lease(borrowed, transport);
  auto trace = TraceFile::begin();
  if (!trace.ok()) {
    complain(tool, trace.status().message());
    return kBackfieldFailed;
  }
  Ear ear(tool, *borrowed.remote);
  int status = run_program(command, borrowed.remote->fd(), [&] { return ear.listen(); });
  if (status != 0) ear.listen_to_the_end();
  trace->end();
  return status;
}

std::optional<uint64_t> parse_seconds(const std::string& text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  auto [next, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || end - next > 1 || number > 1'000'000'000) return std::nullopt;
  switch (next == end ? 's' : *next) {
    case 's':
      return number;
    case 'm':
      return number * 60;
    case 'h':
      return number * 3600;
    case 'd':
      return number * 86'400;
    case 'y':
      return number * 31'536'000;
  }
  return std::nullopt;
}

}  // namespace bf::tools
