// bfrun: runs a program on borrowed GPUs. Borrows, points the program's dynamic linker at the shim, and waits; the
// lease is the open connection, so it ends with this process however that ends. Standard output is the program's alone;
// only --help and --version, which run none, write there.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "tools/program.h"
#include "tools/request.h"
#include "transport/rdma.h"
#include "tools/stats.h"

namespace bf::tools {
namespace {

constexpr const char* kFooter =
    "\nExamples:\n"
    "  bfrun -n 1 -m 2048 -- python train.py     one GPU, 2048 MiB of its memory\n"
    "  bfrun -n 2 -- ./simulate                  two whole GPUs\n"
    "  bfrun -n 1 -p 0.25 --server gpu7 ./test   a quarter of a GPU of the server gpu7\n"
    "  bfrun --filter 'device.memory>=40000' -- ./big      a GPU with 40000 MiB or more\n"
    "\nThe exit status is the program's; 128 + N if signal N ended it; 75 if nothing\n"
    "came free within --timeout; 125 if Backfield failed or nobody can ever grant this; 126 if the program\n"
    "cannot be executed; 127 if it is not found; 2 if bfrun was called wrongly.\n";

struct Options {
  RequestOptions request;
  std::string transport = "auto";
  bool verbose = false;
  bool stats = false;
  std::vector<std::string> command;
};

void describe(CLI::App& app, Options& o) {
  describe(app, o.request);
  app.add_option("--transport", o.transport, "auto (default), tcp, rdma, or shm on the same host")
      ->check(CLI::IsMember({"auto", "tcp", "shm", "rdma"}))
      ->type_name("NAME");
  app.add_option("PROGRAM", o.command, "What to run, and its arguments")->type_name("[ARGUMENTS]");
  app.add_flag("--stats", o.stats, "Say on standard error at the end what the program's calls did and waited for");
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

void report(const Options& options, const Borrowed& borrowed) {
  for (auto& partition : borrowed.lease.partitions)
    fprintf(stderr, "bfrun: %llu MiB of GPU %u (%s) of %s (%s)\n", (unsigned long long)(partition.memory_bytes >> 20),
            partition.gpu_index, printable(partition.name).c_str(), borrowed.server_name.c_str(),
            borrowed.remote->server().to_string().c_str());
  fprintf(stderr, "bfrun: lease %s, transport %s\n", printable(borrowed.lease.lease_id).c_str(),
          options.transport.c_str());
}

int fail(const std::string& message) {
  fprintf(stderr, "bfrun: %s\n", message.c_str());
  return kBackfieldFailed;
}

int main(int argc, char** argv) {
  Options options;
  if (int status = parse(argc, argv, options); status >= 0) return status;
  if (int status = check_command("bfrun", options.command); status != 0) return status;
  if (options.transport == "rdma")
    if (Status status = transport::rdma_available(); !status.ok()) return fail("--transport rdma: " + status.message());
  auto borrowed = request_gpus("bfrun", options.request, options.command[0], false, 0);
  if (!borrowed.ok()) {
    fprintf(stderr, "bfrun: %s\n", borrowed.status().message().c_str());
    return status_of(borrowed.status());
  }
  if (options.verbose) {
    report(options, *borrowed);
    setenv("BF_VERBOSE", "1", 1);  // the program says over which transport its session runs, and why
  }
  if (!options.stats) return run_on("bfrun", *borrowed, options.transport, options.command);
  auto stats = Stats::begin();
  if (!stats.ok()) return fail(stats.status().message());
  int status = run_on("bfrun", *borrowed, options.transport, options.command);
  fputs(stats->summary().c_str(), stderr);
  return status;
}

}  // namespace
}  // namespace bf::tools

int main(int argc, char** argv) { return bf::tools::main(argc, argv); }
