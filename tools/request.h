// What bfrun and bf have in common when they ask for GPUs: options, the program's environment, words for people.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/borrow.h"

namespace bf::tools {

struct ServerOptions {
  std::vector<std::string> servers;
  std::string servers_file;
};
void describe(CLI::App& app, ServerOptions& options);

struct RequestOptions {
  uint32_t gpus = 1;
  uint64_t memory_mib = 0;
  double fraction = 0;
  ServerOptions where;
  std::optional<double> timeout_s;
  std::vector<std::string> filters;
  std::string policy = "auto";
};
void describe(CLI::App& app, RequestOptions& options);

// Finds the servers, waits for GPUs and takes them, for `program`. Complaints, warnings and - on a terminal - a line
// that says why we wait go to standard error, under the name `tool`.
Result<Borrowed> request_gpus(const std::string& tool, const RequestOptions& options, const std::string& program,
                              bool detached, uint64_t ttl_ms);

// Why RDMA cannot be had from a server that wants sessions encrypted.
inline constexpr const char* kNoPlainSessions =
    "--transport rdma: RDMA traffic is not encrypted, and this server wants sessions encrypted; use --transport tcp, or let "
    "the server allow plain sessions (bfserver --encryption never)";

// The exit status for a failure to get GPUs: kTryAgain if waiting might have helped, 2 for wrong input.
int status_of(const Status& why);

// Makes this process, and what it starts, a user of the lease. Returns the folder of the shim. `transport` is auto, tcp, shm
// or rdma.
std::string enter_lease(const Borrowed& borrowed, const std::string& transport);
// Runs a program on a lease until it ends; returns its exit status. `transport` as above.
int run_on(const std::string& tool, const Borrowed& borrowed, const std::string& transport,
           const std::vector<std::string>& command);
// Complains, and returns the exit status, if the command or the shim is not there.
int check_command(const std::string& tool, const std::vector<std::string>& command);

// "90" and "90s" are seconds; m, h, d and y are longer. Nothing for anything else.
std::optional<uint64_t> parse_seconds(const std::string& text);

}  // namespace bf::tools
