// What this machine has to lend, and how workers are started here. bfserver never loads CUDA: a child asks the driver.
#pragma once

#include <string>
#include <vector>

#include "server/daemon/options.h"
#include "server/daemon/placement.h"

namespace bf::daemon {

// How to start a worker.
struct WorkerSetup {
  std::string path;
  std::vector<std::string> environment;  // all of it, less CUDA_VISIBLE_DEVICES
  std::string user;                      // the user workers drop to; empty: ours
};

// Finds the worker, the software driver and the worker's user. kInvalid says what is missing.
Result<WorkerSetup> find_worker(const Options& options);

struct Inventory {
  uint32_t driver_version = 0;
  bool software = false;
  std::string driver;  // version of the kernel driver; empty: unknown
  bool rdma = false;   // there is a device with an active port
  std::vector<GpuState> gpus;
};

// Runs `bfworker --probe`, for at most a minute. Blocks; only before the event loop runs.
Result<Inventory> probe(const WorkerSetup& setup, bool software);

}  // namespace bf::daemon
