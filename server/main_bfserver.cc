// bfserver: lends this machine's GPUs.
//
//   bfserver                 this process: sockets, leases, the process table; never loads CUDA
//    |- bfworker --probe     once, before the sockets open: what GPUs are there
//    |- bfworker --warm      a few per GPU: driver up, waiting for a client
//    `- bfworker             one per client process: replays its calls on the driver, ends with it
//
// A client's socket goes to its worker over a socket pair, and from then on bytes do not pass through here.
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "server/daemon/backup.h"
#include "server/daemon/daemon.h"
#include "server/daemon/log.h"

namespace bf::daemon {
namespace {

// sd_notify(3)'s protocol, without the library: one datagram.
void notify_supervisor(const char* state) {
  const char* path = ::getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  size_t length = strnlen(path, sizeof address.sun_path - 1);
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ::sendto(socket.get(), state, strlen(state), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address),
           socklen_t(offsetof(sockaddr_un, sun_path) + length));
}

Fd block_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t handled;
  sigemptyset(&handled);
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&handled, number);
  ::sigprocmask(SIG_BLOCK, &handled, nullptr);
  return Fd(::signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK));
}

// The first half of going into the background: the parent waits here until the child is ready (a byte comes) or has
// failed (the pipe closes; it has said why), so that whoever started us can rely on the exit status.
Fd leave_parent_waiting() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return {};
  Fd reading(ends[0]), writing(ends[1]);
  pid_t child = ::fork();
  if (child < 0) return {};
  if (child == 0) {
    ::setsid();
    return writing;
  }
  writing.reset();
  char byte;
  ::_exit(::read(reading.get(), &byte, 1) == 1 ? 0 : 1);
}

void detach_from_terminal(Fd ready, bool keep_stderr) {
  int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  if (!keep_stderr) ::dup2(null, STDERR_FILENO);
  ::close(null);
  [[maybe_unused]] ssize_t written = ::write(ready.get(), "", 1);
}

// Takes over what `bf backup` wrote, without serving.
Status restore(const Options& options, Store& store) {
  auto cluster = load_cluster(options.state_dir);
  if (!cluster.ok()) return cluster.status();
  if (*cluster) return {StatusCode::kInvalid, "this server is part of a managed pool: start it, and say bf restore FILE"};
  auto text = read_file(options.restore);
  if (!text.ok()) return text.status();
  auto all = read_backup(*text, options.restore);
  return all.ok() ? adopt(*all, store, options.state_dir) : all.status();
}

// With --dev nothing is remembered.
Result<std::unique_ptr<Store>> open_store(const Options& options) {
  if (options.dev) return Store::open(":memory:");
  const char* folder = options.state_dir.c_str();
  if (::mkdir(folder, 0700) != 0 && errno != EEXIST) return errno_status("cannot make " + options.state_dir, errno);
  struct stat facts {};
  if (::stat(folder, &facts) != 0 || !S_ISDIR(facts.st_mode) || ::access(folder, W_OK) != 0)
    return Status{StatusCode::kInvalid, options.state_dir + " is no folder that bfserver can write to; name another with --state-dir, or try --dev"};
  if (facts.st_uid != ::geteuid() || (facts.st_mode & 077) != 0)
    return Status{StatusCode::kInvalid, options.state_dir + " holds secrets: it must belong to bfserver's user alone (chmod 700)"};
  return Store::open(options.state_dir + "/backfield.db");
}

Status serve(const Options& options, Fd background, std::function<Parsed()> reload) {
  auto store = open_store(options);
  if (!store.ok()) return store.status();
  if (!options.restore.empty()) return restore(options, **store);
  // Its folder exists only for a server that keeps state.
  auto audit = Audit::open(!options.audit_log.empty() ? options.audit_log : options.dev ? "" : options.state_dir + "/audit.log");
  if (!audit.ok()) return audit.status();
  auto setup = find_worker(options);
  if (!setup.ok()) return setup.status();
  auto inventory = probe(*setup, options.software_gpus > 0);
  if (!inventory.ok()) return inventory.status();
  auto loop = EventLoop::create();
  if (!loop.ok()) return loop.status();
  Fd signals = block_signals();
  if (!signals) return errno_status("making a signal descriptor", errno);
  Daemon daemon(**loop, options, std::move(*setup), std::move(*inventory), std::move(*store), std::move(*audit),
                std::move(signals), std::move(reload));
  BF_RETURN_IF_ERROR(daemon.start());
  printf("bfserver %s: %s\n", BF_VERSION, daemon.summary().c_str());
  fflush(stdout);
  notify_supervisor("READY=1");
  if (background) detach_from_terminal(std::move(background), !options.log_file.empty());
  daemon.run();
  notify_supervisor("STOPPING=1");
  log::info("ended");
  return {};
}

int main(int argc, char** argv) {
  auto parse = [=] { return parse_options(argc, argv); };
  Parsed parsed = parse();
  if (!parsed.print.empty()) {
    fputs(parsed.print.c_str(), parsed.exit_status == 0 ? stdout : stderr);
    return parsed.exit_status;
  }
  const Options& options = parsed.options;
  if (!options.log_file.empty() && !log::redirect(options.log_file)) {
    fprintf(stderr, "bfserver: cannot write %s: %s\n", options.log_file.c_str(), strerror(errno));
    return 1;
  }
  Fd background = options.foreground || !options.restore.empty() ? Fd() : leave_parent_waiting();
  log::start(options.level());
  if (Status served = serve(options, std::move(background), parse); !served.ok()) {
    fprintf(stderr, "bfserver: %s\n", served.message().c_str());
    return served.code() == StatusCode::kInvalid ? 2 : 1;
  }
  return 0;
}

}  // namespace
}  // namespace bf::daemon

int main(int argc, char** argv) { return bf::daemon::main(argc, argv); }
