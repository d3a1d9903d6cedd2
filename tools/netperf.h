// How fast the way to a server is, measured against bfserver itself: round trips of small frames, and bulk both ways.
#pragma once

#include <chrono>
#include <string>

#include "base/status.h"
#include "transport/transport.h"

namespace bf::tools {

// A CUDA call that must wait costs a program at least one round trip; beyond this, launches start to be felt.
inline constexpr double kLatencyTargetUs = 50;

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct PathResult {
  std::string path;  // "tcp", "unix"
  double min_us = 0;
  double median_us = 0;
  double p99_us = 0;
  double to_server_mib_s = 0;
  double from_server_mib_s = 0;
};

// Takes a second or two. The address says which path: a Unix socket or TCP.
Result<PathResult> measure(const transport::Address& address);

// The Unix socket of the server at `address` if that is this very host, else an empty address.
transport::Address local_path(const transport::Address& address);

}  // namespace bf::tools
