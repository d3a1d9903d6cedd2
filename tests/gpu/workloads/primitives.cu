// What a CUDA program waits for, one figure a line: "name: value unit". Run natively and through bfrun by tests/gpu/bench.py.
//   primitives [SECONDS per figure]
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
double g_seconds = 0.3;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorName(error));
  std::exit(1);
}
#define CHECK(call) check(call, #call)

__global__ void eight(int, int, int, int, float, float, float*, float*) {}
__global__ void touch(float* data, int rounds) {
  float value = data[threadIdx.x];
  for (int i = 0; i < rounds; i++) value = value * 1.0001f + 0.1f;
  data[threadIdx.x] = value;
}

void report(const std::string& name, double value, const char* unit) {
  std::printf("%s: %.3f %s\n", name.c_str(), value, unit);
  std::fflush(stdout);
}

// The median time of one call, in microseconds.
template <typename F>
double median_us(F call, size_t least = 50) {
  std::vector<double> times;
  for (auto start = Clock::now(); since(start) < g_seconds || times.size() < least;) {
    const auto before = Clock::now();
    call();
    times.push_back(since(before) * 1e6);
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// The mean time of one call in bursts of `burst`, without what `after` costs; the median of the bursts, in nanoseconds.
template <typename F, typename G>
double burst_ns(int burst, F call, G after) {
  std::vector<double> means;
  for (auto start = Clock::now(); since(start) < g_seconds || means.size() < 5;) {
    const auto before = Clock::now();
    for (int i = 0; i < burst; i++) call();
    means.push_back(since(before) * 1e9 / burst);
    after();
  }
  std::nth_element(means.begin(), means.begin() + means.size() / 2, means.end());
  return means[means.size() / 2];
}

void launches(cudaStream_t stream, float* data) {
  const auto launch = [&] { eight<<<1, 32, 0, stream>>>(1, 2, 3, 4, 5.f, 6.f, data, data); };
  const auto wait = [&] { CHECK(cudaStreamSynchronize(stream)); };
  launch();
  wait();
  report("launch, 8 parameters, bursts of 100", burst_ns(100, launch, wait), "ns");
  // The driver's part of it, which is what a remote driver can change.
  cudaFunction_t function;
  CHECK(cudaGetFuncBySymbol(&function, reinterpret_cast<const void*>(eight)));
  int one = 1;
  float half = 0.5f;
  void* parameters[] = {&one, &one, &one, &one, &half, &half, &data, &data};
  const auto driver_launch = [&] { cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, parameters, nullptr); };
  report("cuLaunchKernel, 8 parameters, bursts of 100", burst_ns(100, driver_launch, wait), "ns");
  // End to end: what the device has done in a second.
  const int count = 20'000;
  std::vector<double> rates;
  for (int round = 0; round < 5; round++) {
    const auto before = Clock::now();
    for (int i = 0; i < count; i++) launch();
    wait();
    rates.push_back(count / since(before) / 1e3);
  }
  std::sort(rates.begin(), rates.end());
  report("launches, end to end", rates[rates.size() / 2], "k/s");
  report("launch + synchronise", median_us([&] { launch(), wait(); }), "us");
}

void questions(cudaStream_t stream) {
  const auto nothing = [] {};
  int device, value;
  CUcontext context;
  CUdevice of;
  cudaStreamCaptureStatus status;
  cudaFuncAttributes attributes;
  report("cudaGetDevice", burst_ns(1000, [&] { cudaGetDevice(&device); }, nothing), "ns");
  report("cudaDeviceGetAttribute", burst_ns(1000, [&] { cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 0); }, nothing), "ns");
  report("cuCtxGetCurrent", burst_ns(1000, [&] { cuCtxGetCurrent(&context); }, nothing), "ns");
  report("cuCtxGetDevice", burst_ns(1000, [&] { cuCtxGetDevice(&of); }, nothing), "ns");
  report("cudaStreamIsCapturing", burst_ns(1000, [&] { cudaStreamIsCapturing(stream, &status); }, nothing), "ns");
  report("cudaFuncGetAttributes", burst_ns(200, [&] { cudaFuncGetAttributes(&attributes, eight); }, nothing), "ns");
}

void round_trips(cudaStream_t stream, float* data) {
  report("synchronise an idle stream", median_us([&] { CHECK(cudaStreamSynchronize(stream)); }), "us");
  float value;
  report("copy 4 bytes to the host", median_us([&] { CHECK(cudaMemcpy(&value, data, 4, cudaMemcpyDeviceToHost)); }), "us");
  report("copy 4 bytes to the device", median_us([&] { CHECK(cudaMemcpy(data, &value, 4, cudaMemcpyHostToDevice)); }), "us");
  report("cudaMalloc + cudaFree, 1 MiB", median_us([&] {
           void* memory;
           CHECK(cudaMalloc(&memory, 1 << 20));
           CHECK(cudaFree(memory));
         }),
         "us");
  cudaEvent_t first, second;
  CHECK(cudaEventCreate(&first));
  CHECK(cudaEventCreate(&second));
  report("event record + query until done", median_us([&] {
           CHECK(cudaEventRecord(first, stream));
           while (cudaEventQuery(first) == cudaErrorNotReady) {
           }
         }),
         "us");
}

void copies() {
  const size_t most = 256u << 20;
  char *device, *device2, *pinned, *pinned2;
  CHECK(cudaMalloc(&device, most));
  CHECK(cudaMalloc(&device2, most));
  CHECK(cudaMallocHost(&pinned, most));
  CHECK(cudaMallocHost(&pinned2, most));
  std::vector<char> pageable(most, 1);
  std::memset(pinned, 2, most);
  std::memset(pinned2, 3, most);
  cudaStream_t up, down;
  CHECK(cudaStreamCreateWithFlags(&up, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&down, cudaStreamNonBlocking));
  const auto rate = [](size_t bytes, double us) { return bytes / us / 1e3; };
  for (size_t mib : {1, 16, 64, 256}) {
    const size_t bytes = mib << 20;
    const std::string size = std::to_string(mib) + " MiB";
    report("host to device, pinned, " + size, rate(bytes, median_us([&] {
             CHECK(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, up));
             CHECK(cudaStreamSynchronize(up));
           }, 5)), "GB/s");
    report("host to device, pageable, " + size,
           rate(bytes, median_us([&] { CHECK(cudaMemcpy(device, pageable.data(), bytes, cudaMemcpyHostToDevice)); }, 5)), "GB/s");
    report("device to host, pinned, " + size, rate(bytes, median_us([&] {
             CHECK(cudaMemcpyAsync(pinned2, device2, bytes, cudaMemcpyDeviceToHost, down));
             CHECK(cudaStreamSynchronize(down));
           }, 5)), "GB/s");
    report("device to host, pageable, " + size,
           rate(bytes, median_us([&] { CHECK(cudaMemcpy(pageable.data(), device, bytes, cudaMemcpyDeviceToHost)); }, 5)), "GB/s");
    report("both directions, pinned, " + size, rate(2 * bytes, median_us([&] {
             CHECK(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, up));
             CHECK(cudaMemcpyAsync(pinned2, device2, bytes, cudaMemcpyDeviceToHost, down));
             CHECK(cudaStreamSynchronize(up));
             CHECK(cudaStreamSynchronize(down));
           }, 5)), "GB/s");
  }
  report("device to device, 256 MiB", rate(most, median_us([&] {
           CHECK(cudaMemcpyAsync(device, device2, most, cudaMemcpyDeviceToDevice, up));
           CHECK(cudaStreamSynchronize(up));
         }, 5)), "GB/s");

  // A double-buffered loop: the copy of the next batch beside the kernel of this one. What of the copy remains visible?
  const size_t batch = 16u << 20;
  int rounds = 1000;
  const auto kernel_us = [&] {
    return median_us([&] {
      touch<<<1, 32, 0, up>>>(reinterpret_cast<float*>(device2), rounds);
      CHECK(cudaStreamSynchronize(up));
    }, 3);
  };
  const double copy_us = median_us([&] {
    CHECK(cudaMemcpyAsync(device, pinned, batch, cudaMemcpyHostToDevice, down));
    CHECK(cudaStreamSynchronize(down));
  }, 5);
  while (kernel_us() < 3 * copy_us) rounds *= 2;
  const double alone = kernel_us();
  const int steps = 10;
  cudaEvent_t copied;
  CHECK(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  const double both = median_us([&] {
    for (int i = 0; i < steps; i++) {
      CHECK(cudaMemcpyAsync(device + (i % 2) * batch, pinned + (i % 2) * batch, batch, cudaMemcpyHostToDevice, down));
      CHECK(cudaEventRecord(copied, down));
      touch<<<1, 32, 0, up>>>(reinterpret_cast<float*>(device2), rounds);
      CHECK(cudaStreamWaitEvent(up, copied, 0));
    }
    CHECK(cudaStreamSynchronize(up));
  }, 3) / steps;
  report("double-buffered step over its kernel alone", both / alone, "x");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) g_seconds = std::atof(argv[1]);
  float* data;
  const auto start = Clock::now();
  CHECK(cudaMalloc(&data, 1 << 20));
  touch<<<1, 32>>>(data, 1);
  CHECK(cudaDeviceSynchronize());
  report("first kernel done after", since(start) * 1e3, "ms");
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  launches(stream, data);
  questions(stream);
  round_trips(stream, data);
  copies();
}
