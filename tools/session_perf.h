// What a program gets from a session, whatever carries it: a CUDA program inside this process that measures the shim.
#pragma once

#include "base/status.h"
#include "tools/borrow.h"

namespace bf::tools {

// Memory of the partition that is measured on, contexts included.
inline constexpr uint64_t kSessionPerfMiB = 1024;

struct SessionPerf {
  double min_us = 0;  // a call that must be answered by the worker
  double median_us = 0;
  double p99_us = 0;
  double posts_per_s = 0;  // calls that need no answer, until all of them are done
  double to_gpu_mib_s = 0;
  double from_gpu_mib_s = 0;
};

// Uses the lease over `transport` (as bfrun --transport), once in the life of this process, for some seconds.
Result<SessionPerf> measure_session(const Borrowed& borrowed, const std::string& transport);

}  // namespace bf::tools
