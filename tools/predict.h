// bf predict: what a traced program would lose over another network.
//
// The trace (BF_TRACE) of a run over a quick link says when the program's threads called, what they sent, and where they
// waited. Played again over a link of another round-trip time and bandwidth: calls go out when the program makes them,
// bytes queue for the line, a wait ends when its answer is back. What the GPU did is not in the trace but for its ends: the
// work between two synchronising calls is taken to run without a pause from the first call's arrival on. So copies that
// were asked for ahead of time hide behind it, and those that come first do not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace bf::tools {

// One call of the program, in microseconds.
struct TracedCall {
  double begin_us = 0, end_us = 0, wait_us = 0;
  double bytes_up = 0, bytes_down = 0;
  uint32_t round_trips = 0;
  bool synchronises = false;
};

// The calls of the process of the trace that made most, in order.
Result<std::vector<TracedCall>> read_trace(const std::string& path);

struct Network {
  double rtt_us = 0;
  double bytes_per_us = 0;  // 0: no limit
};

// The network that the trace was made over, as far as its waits tell.
Network network_of(const std::vector<TracedCall>& calls);

// How long the calls take over `network`, in microseconds. `measured`: over which they were traced.
double play(const std::vector<TracedCall>& calls, const Network& measured, const Network& network);

}  // namespace bf::tools
