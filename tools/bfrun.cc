// bfrun: runs a program on borrowed GPUs. Borrows, points the program's dynamic linker at the shim, and waits; the
// lease is the open connection, so it ends with this process however that ends. Standard output is the program's alone;
// only --help and --version, which run none, write there.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "tools/borrow.h"
#include "tools/program.h"
#include "tools/servers.h"
#include "transport/rdma.h"

namespace bf::tools {
namespace {

constexpr const char* kFooter =
    "\nExamples:\n"
    "  bfrun -n 1 -m 2048 -- python train.py     one GPU, 2048 MiB of its memory\n"
    "  bfrun -n 2 -- ./simulate                  two whole GPUs\n"
    "  bfrun -n 1 -p 0.25 --server gpu7 ./test   a quarter of a GPU of the server gpu7\n"
    "\nThe exit status is the program's; 128 + N if signal N ended it; 125 if Backfield failed; 126 if the program\n"
    "cannot be executed; 127 if it is not found; 2 if bfrun was called wrongly.\n";

struct Options {
  uint32_t gpus = 1;
  uint64_t memory_mib = 0;
  double fraction = 0;
  std::vector<std::string> servers;
  std::string servers_file;
  double timeout_s = 60;
  std::string transport = "auto";
  bool verbose = false;
  std::vector<std::string> command;
};

void describe(CLI::App& app, Options& o) {
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
  app.add_option("--server", o.servers, "Borrow from this server; repeatable")
      ->expected(1, 1024)
      ->allow_extra_args(false)
      ->type_name("HOST[:PORT]");
  app.add_option("--servers", o.servers_file, "Borrow from the servers in this file, one host[:port] per line")
      ->type_name("FILE");
  app.add_option("--timeout", o.timeout_s, "How long to wait while all servers are busy (default 60)")
      ->check(CLI::Range(0.0, 1e7))
      ->type_name("SECONDS");
  app.add_option("--transport", o.transport, "auto (default), tcp, rdma, or shm on the same host")
      ->check(CLI::IsMember({"auto", "tcp", "shm", "rdma"}))
      ->type_name("NAME");
  app.add_option("PROGRAM", o.command, "What to run, and its arguments")->type_name("[ARGUMENTS]");
  app.add_flag("-v,--verbose", o.verbose, "Say on standard error what was borrowed where, and how it is reached");
}

// Where the program's own words start: behind "--", or at the first word that is neither an option nor its value. What
// follows belongs to the program, whatever it looks like.
size_t program_start(const CLI::App& app, const std::vector<std::string>& words) {
  size_t i = 0;
  for (; i < words.size() && words[i].size() > 1 && words[i][0] == '-' && words[i] != "--"; i++) {
    bool is_long = words[i][1] == '-';
    const CLI::Option* option = app.get_option_no_throw(is_long ? words[i] : words[i].substr(0, 2));
    bool value_follows = option != nullptr && option->get_items_expected_max() > 0 && (is_long || words[i].size() == 2);
    if (value_follows) i++;
  }
  return std::min(i, words.size());
}

// The exit status if there is nothing to run, else -1.
int parse(int argc, char** argv, Options& options) {
  CLI::App app("Runs a program on borrowed GPUs.", "bfrun");
  app.set_help_flag("-h,--help", "This text");
  app.set_version_flag("--version", "bfrun " BF_VERSION);
  app.footer(kFooter);
  describe(app, options);
  std::vector<std::string> words(argv + 1, argv + argc);
  size_t start = program_start(app, words);
  std::vector<std::string> own(words.begin(), words.begin() + long(start));
  options.command.assign(words.begin() + long(start), words.end());
  if (!options.command.empty() && options.command[0] == "--") options.command.erase(options.command.begin());
  try {
    std::reverse(own.begin(), own.end());
    app.parse(own);
    if (options.command.empty()) throw CLI::RequiredError("the program to run");
  } catch (const CLI::CallForHelp&) {
    fputs(app.help().c_str(), stdout);
    return 0;
  } catch (const CLI::CallForVersion& version) {
    puts(version.what());
    return 0;
  } catch (const CLI::ParseError& error) {
    fprintf(stderr,
            "bfrun: %s\nType for example: bfrun -n 1 -m 2048 -- PROGRAM [ARGUMENTS]   (bfrun --help says more)\n",
            error.what());
    return 2;
  }
  return -1;
}

std::string to_hex(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (char byte : bytes) {
    text += kDigits[uint8_t(byte) >> 4];
    text += kDigits[uint8_t(byte) & 15];
  }
  return text;
}

// The folder of the shim, beside this program.
std::string library_folder() {
  std::error_code error;
  auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path().parent_path() / "lib" / "backfield").string();
}

void set_environment(const Options& options, const Borrowed& borrowed, const std::string& library) {
  const char* before = getenv("LD_LIBRARY_PATH");
  std::string path = before != nullptr && *before != '\0' ? library + ":" + before : library;
  setenv("LD_LIBRARY_PATH", path.c_str(), 1);
  setenv("BF_SERVER", borrowed.server.to_string().c_str(), 1);
  setenv("BF_LEASE", borrowed.lease.lease_id.c_str(), 1);
  setenv("BF_LEASE_SECRET", to_hex(borrowed.lease.secret).c_str(), 1);
  setenv("BF_TRANSPORT", options.transport.c_str(), 1);
  if (options.verbose) setenv("BF_VERBOSE", "1", 1);  // the program says over which transport its session runs, and why
}

// On a terminal: one line that says why we wait, and that is wiped when it is over.
class Progress {
 public:
  void show(const std::string& why) {
    if (!::isatty(STDERR_FILENO)) return;
    std::string line = "bfrun: waiting for a GPU (" + why + ")";
    if (line.size() > 78) line = line.substr(0, 75) + "...";
    fprintf(stderr, "\r\033[K%s", line.c_str());
    shown_ = true;
  }
  void wipe() {
    if (shown_) fputs("\r\033[K", stderr);
    shown_ = false;
  }

 private:
  bool shown_ = false;
};

void report(const Options& options, const Borrowed& borrowed) {
  for (auto& partition : borrowed.lease.partitions)
    fprintf(stderr, "bfrun: %llu MiB of GPU %u (%s) of %s (%s)\n", (unsigned long long)(partition.memory_bytes >> 20),
            partition.gpu_index, printable(partition.name).c_str(), borrowed.server_name.c_str(),
            borrowed.server.to_string().c_str());
  fprintf(stderr, "bfrun: lease %s, transport %s\n", printable(borrowed.lease.lease_id).c_str(),
          options.transport.c_str());
}

control::LeaseRequest lease_request(const Options& options) {
  control::LeaseRequest request;
  request.gpus = options.gpus;
  request.memory_bytes = options.memory_mib << 20;
  request.fraction = options.fraction;
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  request.client_name = host;
  request.client_pid = uint32_t(::getpid());
  request.program = std::filesystem::path(options.command[0]).filename().string();
  return request;
}

int fail(const std::string& message, int status = kBackfieldFailed) {
  fprintf(stderr, "bfrun: %s\n", message.c_str());
  return status;
}

int main(int argc, char** argv) {
  Options options;
  if (int status = parse(argc, argv, options); status >= 0) return status;
  if (int status = check_program(options.command[0]); status != 0)
    return fail(options.command[0] + (status == kNotFound ? ": not found" : ": cannot be executed"), status);
  std::string library = library_folder();
  if (::access((library + "/libcuda.so.1").c_str(), R_OK) != 0)
    return fail("there is no libcuda.so.1 in " + library + "; is Backfield installed completely?");
  if (options.transport == "rdma")
    if (Status status = transport::rdma_available(); !status.ok()) return fail("--transport rdma: " + status.message());
  auto servers = find_servers(options.servers, options.servers_file);
  if (!servers.ok()) return fail(servers.status().message());

  Progress progress;
  auto deadline = control::deadline_in(std::chrono::milliseconds((long long)(options.timeout_s * 1000)));
  auto borrowed =
      borrow(*servers, lease_request(options), deadline, [&](const std::string& why) { progress.show(why); });
  progress.wipe();
  if (!borrowed.ok()) return fail(borrowed.status().message());
  if (options.verbose) report(options, *borrowed);
  set_environment(options, *borrowed, library);
  return run_program(options.command, borrowed->connection.get(), [&] {
    fail("the server " + borrowed->server.to_string() + " ended the lease; CUDA calls of the program fail from now on");
  });
}

}  // namespace
}  // namespace bf::tools

int main(int argc, char** argv) { return bf::tools::main(argc, argv); }
