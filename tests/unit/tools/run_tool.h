// Runs bfrun and bf as a person would, in a folder laid out like an installation.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "proto/control.h"

namespace bf::test {

struct Finished {
  int status = -1;  // exit status; 1000 + signal; -1: it did not end in time and was killed
  std::string out;
  std::string err;
};

// A copy of the tools in PREFIX/bin beside an empty PREFIX/lib/backfield/libcuda.so.1.
const std::string& prefix();

struct Started {
  pid_t pid = -1;
  int out = -1;
  int err = -1;
};
// `environment` is added to ours. In a process group of its own.
Started start_tool(const std::vector<std::string>& words, const std::vector<std::string>& environment = {});
Finished finish(Started started, std::chrono::milliseconds time);
Finished run_tool(const std::vector<std::string>& words, const std::vector<std::string>& environment = {});
// A program for bfrun and `bf client` that says which lease it is under, and then does `then`; and what it said.
std::vector<std::string> reveal_lease(const std::string& then);
control::LeaseReply revealed_lease(const Started& started);
// The next line of a stream, without its end; empty when nothing comes for `time`.
std::string next_line(int fd, std::chrono::milliseconds time = std::chrono::seconds(10));

}  // namespace bf::test
