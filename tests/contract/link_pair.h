// Links for the contract suite and the benchmark: both ends of every transport in this process, or the far end in a
// process of its own that can be killed.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "transport/transport.h"

namespace bf::transport::test {

// How soon a broken link has to be noticed. ThreadSanitizer slows encryption down.
#ifdef BF_THREAD_SANITIZER
inline constexpr std::chrono::seconds kPromptly{5};
#else
inline constexpr std::chrono::seconds kPromptly{1};
#endif

enum class Kind { kTcp4, kTcp6, kTls, kShm, kRdma, kLoopback, kLoopbackDelay, kLoopbackSplit };
const char* name_of(Kind kind);
// Empty, or why this machine cannot: no IPv6; no RDMA (BF_TEST_RDMA names the address of this host to meet at).
std::string missing(Kind kind);
std::vector<Kind> all_kinds();

struct Pair {
  std::unique_ptr<Link> client;
  std::unique_ptr<Link> worker;
};
Pair make_pair(Kind kind, uint32_t bulk_channels = limits::kTcpChannels - 1);

// Connected sockets, [0] the client's ends and [1] the worker's. tcp: calls, side, bulk...; shm and rdma: one.
struct Sockets {
  std::vector<Fd> ends[2];
};
Sockets connect_sockets(Kind kind, size_t count);
// rdma: both ends at once, each waits for the other.
std::unique_ptr<Link> link_over(Kind kind, std::vector<Fd> sockets, bool worker);

// A process that holds the worker's end: it answers nothing on the streams, drains nothing, and its sink keeps all
// blocks. kTcp4, kShm or kRdma. Killed by the destructor at the latest.
class PeerProcess {
 public:
  PeerProcess(Kind kind, std::vector<Fd> worker_sockets);
  ~PeerProcess() { kill_now(); }
  void kill_now();

 private:
  pid_t pid_ = -1;
};
// What main() runs for the arguments PeerProcess gives.
int peer_main(int argc, char** argv);

// A sink made of functions; without them it lands in the ring and keeps the block.
class Sink : public BulkSink {
 public:
  std::function<std::byte*(const Block&)> on_place;
  std::function<bool(const Block&, std::byte*)> on_landed;

  // Starts `bulk` with this sink, and stops it in the destructor: a sink must outlive all that calls it.
  void attach(Bulk& bulk) {
    attached_ = &bulk;
    bulk.start(*this);
  }
  ~Sink() override {
    if (attached_) attached_->stop();
  }

  std::byte* place(const Block& block) noexcept override { return on_place ? on_place(block) : nullptr; }
  bool landed(const Block& block, std::byte* data) noexcept override;
  void lost(const Status& why) noexcept override;

  // Waits until `count` blocks have landed; false after `timeout`.
  bool wait_landed(size_t count, std::chrono::milliseconds timeout = std::chrono::seconds(60));
  bool wait_lost(std::chrono::milliseconds timeout = std::chrono::seconds(10));
  size_t landed_count();
  int lost_count();
  std::vector<Block> blocks();  // in landing order

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Block> blocks_;
  int lost_ = 0;
  Bulk* attached_ = nullptr;
};

// Counts `sent` callbacks.
class SentCounter {
 public:
  std::function<void(const Status&)> callback();
  bool wait(int count, std::chrono::milliseconds timeout = std::chrono::seconds(60));
  int ok();
  int failed();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int ok_ = 0;
  int failed_ = 0;
};

// Receives exactly out.size() bytes; false at an end or a failure before.
bool receive_exactly(Stream& stream, std::span<std::byte> out, std::chrono::microseconds spin = std::chrono::microseconds(0));
// Sends what nobody receives, until that fails or far more has gone than is held under way. In pieces: TLS encrypts all that it is
// given before it sends any of it, for as long as a second with a sanitizer.
Status send_on(Stream& stream);
std::vector<std::byte> random_bytes(size_t count, uint64_t seed);
// By memcmp: comparing vectors of std::byte goes byte by byte, which takes ThreadSanitizer seconds for what travels here.
bool same_bytes(std::span<const std::byte> one, std::span<const std::byte> other);

}  // namespace bf::transport::test
