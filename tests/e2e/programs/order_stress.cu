// Random order: host threads mix launches, copies, sets, events, waits, queries and host functions on shared streams.
// Each thread owns a region and a stream of its own; regions are also passed from thread to thread through events.
// All updates are exact functions of the order CUDA promises, so the final hash depends on the seed alone.
// Arguments: rounds in total, threads, seed.
#include <condition_variable>
#include <mutex>
#include <thread>

#include "e2e.h"

__global__ void mix(unsigned* x, int n, unsigned value) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = x[i] * 1664525u + value + i;
}
__global__ void blend(unsigned* x, const unsigned* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = x[i] * 31u + y[i];
}

constexpr int kWords = 20'000;  // 80 KB: larger than what travels inline

struct Baton {  // hands "event of step k is recorded" from one thread to the next
  std::mutex mutex;
  std::condition_variable changed;
  int step = 0;
  void reach(int value) {
    std::lock_guard lock(mutex);
    step = value;
    changed.notify_all();
  }
  void wait_for(int value) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return step >= value; });
  }
};

struct Lane {
  unsigned *region, *spare, *pinned;
  cudaStream_t stream;
  cudaEvent_t ready, read;
  Baton baton;
  std::vector<unsigned> pageable = std::vector<unsigned>(kWords);
  unsigned state;
  unsigned host_sum = 0;
  unsigned random(unsigned below) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
  }
};

static void CUDART_CB scramble(void* data) {
  auto* lane = static_cast<Lane*>(data);
  for (int i = 0; i < 100; i++) lane->pinned[i] = lane->pinned[i] * 7u + i;
}

static void one_round(Lane& lane) {
  cudaStream_t s = lane.stream;
  int n = 1 + int(lane.random(lane.random(3) ? 500 : kWords)), at = int(lane.random(unsigned(kWords - n + 1)));
  size_t bytes = n * sizeof(unsigned);
  int blocks = (std::min(n, 600) + 127) / 128;
  switch (lane.random(12)) {
    case 0:
    case 1:
    case 2:
      mix<<<blocks, 128, 0, s>>>(lane.region + at, std::min(n, 600), lane.state);
      break;
    case 3:
      blend<<<blocks, 128, 0, s>>>(lane.region + at, lane.spare + at, std::min(n, 600));
      break;
    case 4:
      for (int i = 0; i < n; i += 97) lane.pageable[i] = lane.state + i;
      CHECK(cudaMemcpyAsync(lane.spare + at, lane.pageable.data(), bytes, cudaMemcpyHostToDevice, s));
      for (int i = 0; i < n; i += 97) lane.pageable[i] = 0;
      break;
    case 5:
      CHECK(cudaMemcpyAsync(lane.spare + at, lane.pinned + at, bytes, cudaMemcpyHostToDevice, s));
      break;
    case 6:
      CHECK(cudaMemcpyAsync(lane.pinned + at, lane.region + at, bytes, cudaMemcpyDeviceToHost, s));
      break;
    case 7:
      CHECK(cudaMemcpyAsync(lane.spare + at, lane.region + at, bytes, cudaMemcpyDeviceToDevice, s));
      break;
    case 8:
      CHECK(cudaMemsetAsync(lane.spare + at, int(lane.random(256)), bytes, s));
      break;
    case 9:
      CHECK(cudaLaunchHostFunc(s, scramble, &lane));
      break;
    case 10:
      CHECK(cudaStreamSynchronize(s));
      for (int i = 0; i < 50; i++) lane.host_sum = lane.host_sum * 31 + lane.pinned[i];
      break;
    case 11: {
      cudaError_t state = lane.random(2) ? cudaStreamQuery(s) : cudaEventQuery(lane.ready);
      if (state != cudaSuccess && state != cudaErrorNotReady) CHECK(state);
      cudaGetLastError();
      int value = 0;
      if (lane.random(4) == 0) {
        CHECK(cudaMemcpyAsync(&value, lane.region + at, 4, cudaMemcpyDeviceToHost, s));
        CHECK(cudaStreamSynchronize(s));
        lane.host_sum = lane.host_sum * 31 + value;
      }
      break;
    }
  }
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1000, threads = argc > 2 ? std::atoi(argv[2]) : 3;
  const unsigned seed = argc > 3 ? unsigned(std::atoi(argv[3])) : 1;
  std::vector<Lane> lanes(threads);
  for (int t = 0; t < threads; t++) {
    Lane& lane = lanes[t];
    lane.state = seed * 7919u + t;
    CHECK(cudaMalloc(&lane.region, kWords * sizeof(unsigned)));
    CHECK(cudaMalloc(&lane.spare, kWords * sizeof(unsigned)));
    CHECK(cudaMallocHost(&lane.pinned, kWords * sizeof(unsigned)));
    CHECK(cudaMemset(lane.region, t, kWords * sizeof(unsigned)));
    CHECK(cudaMemset(lane.spare, 0, kWords * sizeof(unsigned)));
    std::memset(lane.pinned, 0, kWords * sizeof(unsigned));
    CHECK(cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking));
    CHECK(cudaEventCreateWithFlags(&lane.ready, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&lane.read, cudaEventDisableTiming));
  }
  CHECK(cudaDeviceSynchronize());

  const int exchange_every = 40, per_thread = rounds / threads;
  std::vector<std::thread> running;
  for (int t = 0; t < threads; t++) {
    running.emplace_back([&, t] {
      Lane& lane = lanes[t];
      Lane& next = lanes[(t + 1) % threads];
      for (int round = 0, step = 0; round < per_thread; round++) {
        one_round(lane);
        if (round % exchange_every != exchange_every - 1) continue;
        // Publish this region; fold the neighbour's into the spare; wait until the neighbour has read ours.
        CHECK(cudaEventRecord(lane.ready, lane.stream));
        lane.baton.reach(++step);
        next.baton.wait_for(step);
        CHECK(cudaStreamWaitEvent(lane.stream, next.ready));
        blend<<<40, 128, 0, lane.stream>>>(lane.spare, next.region, 5000);
        CHECK(cudaEventRecord(next.read, lane.stream));
        lane.baton.reach(++step);
        Lane& previous = lanes[(t + threads - 1) % threads];
        previous.baton.wait_for(step);
        CHECK(cudaStreamWaitEvent(lane.stream, lane.read));
      }
    });
  }
  for (auto& thread : running) thread.join();
  CHECK(cudaDeviceSynchronize());
  for (auto& lane : lanes) {
    std::printf("%016llx %016llx %016llx %08x\n", (unsigned long long)hash_device(lane.region, kWords * 4),
                (unsigned long long)hash_device(lane.spare, kWords * 4),
                (unsigned long long)hash_bytes(lane.pinned, kWords * 4), lane.host_sum);
  }
}
