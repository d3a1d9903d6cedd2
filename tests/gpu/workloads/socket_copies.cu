// The bound of copies over tcp on this host, with nothing of Backfield in it: what a plain program moves over loopback sockets
// from memory to memory, and what is left of that when a GPU reads what lands (to the device) and writes what leaves (back).
//   socket_copies [MIB [SECONDS]]
#include <cuda_runtime.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kBlock = 1 << 20;
constexpr int kHeld = 256 << 10;  // bytes that a sender's kernel may hold beyond what is on its way

void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}
void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorName(error));
  std::exit(1);
}
#define CHECK(call) check(call, #call)

char* memory(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) fail("mmap");
  std::memset(data, 1, bytes);
  CHECK(cudaHostRegister(data, bytes, cudaHostRegisterDefault));
  return static_cast<char*>(data);
}

void move_all(int socket, void* data, size_t bytes, bool send_them) {
  for (size_t done = 0; done < bytes;) {
    char* at = static_cast<char*>(data) + done;
    const ssize_t count = send_them ? send(socket, at, bytes - done, MSG_NOSIGNAL) : recv(socket, at, bytes - done, MSG_WAITALL);
    if (count <= 0) fail("a socket");
    done += size_t(count);
  }
}

// One direction: every connection has a thread at each end, which takes whatever block is next.
class Way {
 public:
  enum class Gpu { kNone, kReads, kWrites };

  Way(size_t bytes, int connections, Gpu gpu) : blocks_(bytes / kBlock), gpu_(gpu), source_(memory(bytes)), target_(memory(bytes)), landed_(new std::atomic<uint64_t>[blocks_]) {
    for (size_t i = 0; i < blocks_; ++i) landed_[i] = 0;
    if (gpu_ != Gpu::kNone) CHECK(cudaMalloc(&device_, bytes));
    CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    left_.resize(blocks_);
    for (cudaEvent_t& event : left_) CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), size) || listen(listener, connections)) fail("listen");
    getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
    for (int i = 0; i < connections; ++i) {
      const int out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
      if (connect(out, reinterpret_cast<sockaddr*>(&address), size)) fail("connect");
      setsockopt(out, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      setsockopt(out, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kHeld, sizeof kHeld);
      const int in = accept(listener, nullptr, nullptr);
      std::thread([this, out] { send_blocks(out); }).detach();
      std::thread([this, in] { receive_blocks(in); }).detach();
    }
    close(listener);
  }

  void start() {
    next_ = 0;
    ready_ = gpu_ == Gpu::kWrites ? 0 : blocks_;
    {
      std::lock_guard guard(mutex_);
      ++round_;
    }
    begins_.notify_all();
    for (size_t i = 0; gpu_ == Gpu::kWrites && i < blocks_; ++i) {
      CHECK(cudaMemcpyAsync(source_ + i * kBlock, device_ + i * kBlock, kBlock, cudaMemcpyDeviceToHost, stream_));
      CHECK(cudaEventRecord(left_[i], stream_));
      ready_ = i + 1;
    }
  }

  void wait() {
    std::vector<bool> taken(blocks_);
    for (size_t count = 0; count < blocks_;) {
      for (size_t i = 0; i < blocks_; ++i) {
        if (taken[i] || landed_[i].load(std::memory_order_acquire) != round_) continue;
        taken[i] = true;
        ++count;
        if (gpu_ == Gpu::kReads) CHECK(cudaMemcpyAsync(device_ + i * kBlock, target_ + i * kBlock, kBlock, cudaMemcpyHostToDevice, stream_));
      }
    }
    CHECK(cudaStreamSynchronize(stream_));
  }

 private:
  void send_blocks(int socket) {
    for (uint64_t round = 0;; ++round) {
      {
        std::unique_lock lock(mutex_);
        begins_.wait(lock, [&] { return round_ != round; });
      }
      for (uint64_t block; (block = next_.fetch_add(1)) < blocks_;) {
        while (ready_.load(std::memory_order_acquire) <= block) {
        }
        if (gpu_ == Gpu::kWrites) CHECK(cudaEventSynchronize(left_[block]));
        move_all(socket, &block, sizeof block, true);
        move_all(socket, source_ + block * kBlock, kBlock, true);
      }
    }
  }

  void receive_blocks(int socket) {
    for (uint64_t block;;) {
      move_all(socket, &block, sizeof block, false);
      move_all(socket, target_ + block * kBlock, kBlock, false);
      landed_[block].store(round_, std::memory_order_release);
    }
  }

  const size_t blocks_;
  const Gpu gpu_;
  char* const source_;
  char* const target_;
  char* device_ = nullptr;
  cudaStream_t stream_;
  std::vector<cudaEvent_t> left_;
  std::mutex mutex_;
  std::condition_variable begins_;
  std::atomic<uint64_t> round_{0};  // counts up under the mutex
  alignas(64) std::atomic<uint64_t> next_{0};
  alignas(64) std::atomic<uint64_t> ready_{0};  // blocks whose copies from the GPU are enqueued
  std::unique_ptr<std::atomic<uint64_t>[]> landed_;  // in which round
};

double rate_gb_s(size_t bytes, double seconds, const std::vector<Way*>& ways) {
  std::vector<double> times;
  for (auto begin = Clock::now(); times.size() < 5 || std::chrono::duration<double>(Clock::now() - begin).count() < seconds;) {
    const auto before = Clock::now();
    for (Way* way : ways) way->start();
    for (Way* way : ways) way->wait();
    times.push_back(std::chrono::duration<double>(Clock::now() - before).count());
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return double(bytes) * double(ways.size()) / times[times.size() / 2] / 1e9;
}

}  // namespace

int main(int count, char** words) {
  const size_t bytes = size_t(count > 1 ? std::atoi(words[1]) : 16) << 20;
  const double seconds = count > 2 ? std::atof(words[2]) : 0.3;
  for (const bool gpu : {false, true}) {
    for (const int connections : {4, 6}) {
      auto* up = new Way(bytes, connections, gpu ? Way::Gpu::kReads : Way::Gpu::kNone);  // their threads use them to the end
      auto* down = new Way(bytes, connections, gpu ? Way::Gpu::kWrites : Way::Gpu::kNone);
      const double there = rate_gb_s(bytes, seconds, {up}), back = rate_gb_s(bytes, seconds, {down});
      std::printf("%zu MiB, %d connections each way, %s: %.2f GB/s there, %.2f back, %.2f both ways at once\n", bytes >> 20, connections,
                  gpu ? "a GPU behind the memory" : "memory alone", there, back, rate_gb_s(bytes, seconds, {up, down}));
      std::fflush(stdout);
    }
  }
  _exit(0);
}
