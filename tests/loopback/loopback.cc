// Gives the shim a link to a worker in its own process. The driver is BF_DRIVER, as for a worker process; its devices are
// leased whole. BF_LOOPBACK_FAULTS ("delay-us=N;split=N;cut-after=N") goes to both directions.
#include <pthread.h>
#include <signal.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "client/attach.h"
#include "server/worker/driver_library.h"
#include "server/worker/session.h"

namespace bf {
namespace {

transport::Faults faults_from_environment() {
  transport::Faults faults;
  const char* text = getenv("BF_LOOPBACK_FAULTS");
  for (std::string rest = text ? text : ""; !rest.empty();) {
    const std::string item = rest.substr(0, rest.find(';'));
    rest.erase(0, item.size() + 1);
    const size_t equals = item.find('=');
    if (equals == std::string::npos) continue;
    const std::string name = item.substr(0, equals);
    const uint64_t value = strtoull(item.c_str() + equals + 1, nullptr, 10);
    if (name == "delay-us") faults.delay = std::chrono::microseconds(value);
    if (name == "split") faults.split_bytes = value;
    if (name == "cut-after") faults.cut_after_bytes = value;
  }
  return faults;
}

// All of it lives as long as the process: the program may call CUDA from its last exit handler.
struct Worker {
  server::DriverLibrary library;
  server::Prepared prepared;
  server::SessionConfig config;
  std::unique_ptr<transport::Link> link;

  explicit Worker(server::DriverLibrary loaded) : library(std::move(loaded)), prepared(library.api) {}
};

Result<client::Attached> attach_inside(bool* device_twice) {
  auto library = server::load_driver();
  *device_twice = library.status().code() == StatusCode::kInvalid;  // this environment is the driver's, too
  if (!library.ok()) return library.status();
  auto* worker = new Worker(std::move(*library));
  const DriverApi& api = worker->library.api;
  if (worker->prepared.start() != CUDA_SUCCESS || worker->prepared.warm() != CUDA_SUCCESS)
    return Status(StatusCode::kUnavailable, "the driver of the loopback worker does not start");
  int devices = 0;
  api.cuDeviceGetCount(&devices);
  for (int i = 0; i < devices; i++) {
    server::SessionConfig::Device device;
    size_t bytes = 0;
    api.cuDeviceTotalMem_v2(&bytes, i);
    device.limit_bytes = bytes;
    device.partition = size_t(i);
    worker->config.devices.push_back(device);
  }
  worker->config.software = worker->library.software;

  const transport::Faults faults = faults_from_environment();
  transport::LoopbackPair pair = transport::make_loopback(faults, faults);
  worker->link = std::move(pair.worker);
  // As in a worker process: the program's signals are none of our threads' business.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([worker] { (void)server::serve_session(*worker->link, worker->prepared, worker->config); }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  client::Attached attached;
  attached.link = std::move(pair.client);
  return attached;
}

__attribute__((constructor)) void install() { client::set_link_factory(attach_inside); }

}  // namespace
}  // namespace bf
