#include "tools/session_perf.h"

#include <cuda.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "tools/netperf.h"
#include "tools/request.h"

namespace bf::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUpRounds = 100;
constexpr int kRounds = 2000;
constexpr int kPosts = 10'000;
constexpr double kSecondsEach = 1.0;  // slow paths do less instead of taking longer
constexpr size_t kCopyBytes = 32 << 20;

#define BF_PERF_FUNCTIONS(X)                                                                                          \
  X(cuInit) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxSynchronize) X(cuMemAlloc_v2) X(cuMemAllocHost_v2)  \
  X(cuMemsetD8Async) X(cuMemcpyHtoD_v2) X(cuMemcpyDtoH_v2) X(cuGetErrorName)

struct Shim {
#define BF_DECLARE(name) decltype(&::name) name = nullptr;
  BF_PERF_FUNCTIONS(BF_DECLARE)
#undef BF_DECLARE
};

Result<Shim> load_shim(const std::string& folder) {
  void* library = dlopen((folder + "/libcuda.so.1").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return Status{StatusCode::kUnavailable, dlerror()};
  Shim shim;
  const char* missing = nullptr;
#define BF_LOAD(name) \
  if (!(shim.name = reinterpret_cast<decltype(shim.name)>(dlsym(library, #name)))) missing = #name;
  BF_PERF_FUNCTIONS(BF_LOAD)
#undef BF_LOAD
  if (missing != nullptr) return Status{StatusCode::kUnavailable, std::string("the shim lacks ") + missing};
  return shim;
}

class Measurement {
 public:
  explicit Measurement(const Shim& shim) : shim_(shim) {}

  Status prepare() {
    CUcontext context;
    BF_RETURN_IF_ERROR(good("starting a session", shim_.cuInit(0)));
    BF_RETURN_IF_ERROR(good("making a context", shim_.cuDevicePrimaryCtxRetain(&context, 0)));
    BF_RETURN_IF_ERROR(good("making a context", shim_.cuCtxSetCurrent(context)));
    BF_RETURN_IF_ERROR(good("taking GPU memory", shim_.cuMemAlloc_v2(&device_, kCopyBytes)));
    return good("taking pinned memory", shim_.cuMemAllocHost_v2(&host_, kCopyBytes));
  }

  Status latency(SessionPerf& out) {
    std::vector<double> times_us;
    auto begin = Clock::now();
    for (int i = 0; i < kWarmUpRounds + kRounds && (i < kWarmUpRounds + 10 || seconds_since(begin) < kSecondsEach); i++) {
      auto start = Clock::now();
      BF_RETURN_IF_ERROR(good("a call that waits", shim_.cuCtxSynchronize()));
      if (i >= kWarmUpRounds) times_us.push_back(seconds_since(start) * 1e6);
    }
    std::sort(times_us.begin(), times_us.end());
    out.min_us = times_us.front();
    out.median_us = times_us[times_us.size() / 2];
    out.p99_us = times_us[times_us.size() * 99 / 100];
    return {};
  }

  Status posts(SessionPerf& out) {
    auto start = Clock::now();
    int done = 0;
    for (; done < kPosts && seconds_since(start) < kSecondsEach; done++)
      BF_RETURN_IF_ERROR(good("a call that does not wait", shim_.cuMemsetD8Async(device_, 0, 1, nullptr)));
    BF_RETURN_IF_ERROR(good("a call that waits", shim_.cuCtxSynchronize()));
    out.posts_per_s = done / seconds_since(start);
    return {};
  }

  Status bandwidth(SessionPerf& out) {
    auto rate = [&](double& result, const char* what, auto copy) -> Status {
      BF_RETURN_IF_ERROR(good(what, copy()));  // registers what is to be registered
      auto start = Clock::now();
      uint64_t bytes = 0;
      do {
        BF_RETURN_IF_ERROR(good(what, copy()));
        bytes += kCopyBytes;
      } while (seconds_since(start) < kSecondsEach);
      result = double(bytes) / double(1 << 20) / seconds_since(start);
      return {};
    };
    BF_RETURN_IF_ERROR(rate(out.to_gpu_mib_s, "a copy to the GPU", [&] { return shim_.cuMemcpyHtoD_v2(device_, host_, kCopyBytes); }));
    return rate(out.from_gpu_mib_s, "a copy from the GPU", [&] { return shim_.cuMemcpyDtoH_v2(host_, device_, kCopyBytes); });
  }

 private:
  Status good(const char* what, CUresult result) const {
    if (result == CUDA_SUCCESS) return {};
    const char* name = "unknown error";
    shim_.cuGetErrorName(result, &name);
    return {StatusCode::kUnavailable, std::string(what) + " failed: " + name};
  }

  const Shim shim_;
  CUdeviceptr device_ = 0;
  void* host_ = nullptr;
};

}  // namespace

Result<SessionPerf> measure_session(const Borrowed& borrowed, const std::string& transport) {
  auto shim = load_shim(enter_lease(borrowed, transport));
  if (!shim.ok()) return shim.status();
  Measurement measurement(*shim);
  SessionPerf result;
  BF_RETURN_IF_ERROR(measurement.prepare());
  BF_RETURN_IF_ERROR(measurement.latency(result));
  Status status = measurement.posts(result);
  if (status.ok()) status = measurement.bandwidth(result);
  if (status.ok()) return result;
  if (transport != "rdma") return status;
  return Status{status.code(), status.message() + ", after small messages had passed. Is the MTU the same on both hosts and on the way?"};
}

}  // namespace bf::tools
