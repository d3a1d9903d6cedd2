// tcp: one connection per stream, several for bulk.
//
// Every bulk connection has a sender and a receiver thread (bulk_engine.h). Whichever sender is free takes the next
// block, so blocks spread over the connections by how fast each takes them. Credits, which let the peer go on, travel
// between the blocks of the other direction, through the sender threads.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

#include "proto/secrets.h"
#include "transport/bulk_engine.h"
#include "transport/tcp_connection.h"
#include "transport/tcp_wire.h"
#include "transport/transport.h"

namespace bf::transport {
namespace {

// For users of a stream the peer is gone either way.
Status gone(const Status& why) { return {StatusCode::kUnavailable, why.message()}; }

class TcpStream : public Stream {
 public:
  explicit TcpStream(TcpConnection connection) : connection_(std::move(connection)) {}

  Status send(std::span<const iovec> parts) override {
    sending_.store(true);
    for (int i = 0; i < kMostPauses && looking_.load(); i++) relax_cpu();
    Status status = connection_.send(parts);
    sending_.store(false, std::memory_order_release);
    return status.ok() ? status : gone(status);
  }

  Result<size_t> receive(std::span<std::byte> buffer) override {
    auto got = left_ ? take_early(buffer) : connection_.receive(buffer);
    if (!got.ok()) return gone(got.status());
    if (shut_) return Status(StatusCode::kUnavailable, "the link was shut on this side");
    return got;
  }

  // Looks with recv(2), which is 0.7 us quicker for a round trip than poll(2) and recv(2) (measured between two processes on Linux
  // 6.18): what comes while it has the socket's lock is left for it to process. But who sends on the socket meanwhile would have to
  // wait for the lock, asleep, and who sleeps until something comes it would have to wake; so not while somebody does.
  bool ready() override {
    if (left_) return true;
    if (connection_.encrypted()) return connection_.ready();
    looking_.store(true);
    const bool free = !sending_.load() && sleepers_.load() == 0;
    if (free) left_ = (early_ = connection_.receive_now(early_bytes_)).has_value();
    looking_.store(false);
    return free ? left_.load() : connection_.ready();
  }

  // What was received early the socket knows nothing of.
  void wait_until_ready() override {
    sleepers_.fetch_add(1);
    while (looking_.load()) std::this_thread::yield();
    if (!left_) connection_.wait_until_ready();
    sleepers_.fetch_sub(1);
  }

  void shut() noexcept override {
    shut_ = true;
    connection_.hang_up();
  }

 private:
  static constexpr int kMostPauses = 100;  // who looks may have lost his processor

  Result<size_t> take_early(std::span<std::byte> buffer) {
    if (!early_->ok() || early_->value() == 0) return *early_;  // for good
    const size_t count = std::min(early_->value() - early_taken_, buffer.size());
    std::memcpy(buffer.data(), early_bytes_.data() + early_taken_, count);
    early_taken_ += count;
    if (early_taken_ == early_->value()) {
      early_taken_ = 0;
      left_ = false;
    }
    return count;
  }

  TcpConnection connection_;
  std::atomic<bool> shut_{false};
  alignas(64) std::atomic<bool> sending_{false};
  std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<bool> looking_{false};
  std::atomic<bool> left_{false};  // early_ holds what receive() has not given out yet
  // The receiver's: what ready() has received.
  std::optional<Result<size_t>> early_;
  size_t early_taken_ = 0;
  std::array<std::byte, 4096> early_bytes_;
};

class TcpBulk : public BulkEngine {
 public:
  TcpBulk(std::vector<TcpConnection> channels, End end, std::function<void()> link_failed)
      : BulkEngine(way(end == End::kClient, channels.size()), way(end == End::kWorker, channels.size()), limits::kTcpBulkBlocks,
                   limits::kTcpBulkBlocks, true, std::move(link_failed)),
        to_device_(end == End::kWorker),
        channels_(std::move(channels)) {
    for (TcpConnection& channel : channels_) channel.hold_little();
    // Pages come into being when a block lands in them, so a side that always places pays nothing.
    constexpr size_t kBytes = limits::kTcpBulkBlocks * limits::kBulkBlockBytes;
    void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) ring_ = {static_cast<std::byte*>(memory), kBytes};
  }

  ~TcpBulk() override {
    stop();
    if (!ring_.empty()) munmap(ring_.data(), ring_.size());
  }

 private:
  using Clock = std::chrono::steady_clock;

  // What comes to the worker a GPU reads. The copy takes the receivers' processors, which both ways at once are needed more:
  // on 16 of them it made 16 MiB to the device a quarter quicker, and both ways at once 5 % slower.
  bool past_caches() const { return to_device_ && Clock::now() - sent_at_.load(std::memory_order_relaxed) > std::chrono::milliseconds(5); }

  // The connections of what goes to the worker, or to the client.
  static Channels way(bool to_worker, size_t connections) {
    const auto all = uint32_t(connections), half = all / 2;
    if (half == 0) return {0, all};
    return to_worker ? Channels{0, half} : Channels{half, all};
  }

  Status write(uint32_t channel, const SendQueue::Job& job) override {
    TcpHeader header = job.is_credit ? tcp_credit_header(job.block.sequence) : tcp_block_header(job.block);
    iovec parts[2] = {{&header, sizeof header}, {const_cast<std::byte*>(job.data), job.block.bytes}};
    const Moving moving;
    if (!job.is_credit) sent_at_.store(Clock::now(), std::memory_order_relaxed);
    return channels_[channel].send(std::span(parts, job.is_credit ? 1 : 2));
  }

  Result<bool> read(uint32_t channel) override {
    TcpConnection& connection = channels_[channel];
    TcpHeader header;
    auto more = connection.receive_all(std::as_writable_bytes(std::span(&header, 1)));
    if (hung_up_) return false;
    if (!more.ok() || !more.value()) return more;
    auto event = accept_tcp_header(header, queue_, window_);
    if (!event.ok()) return event.status();
    if (!event->is_block) return true;
    const Moving moving;
    auto to = target(event->block);
    if (!to.ok()) return to.status();
    const std::span<std::byte> bytes{to->data, event->block.bytes};
    auto whole = past_caches() ? connection.receive_all_for_device(bytes) : connection.receive_all(bytes);
    if (hung_up_) return false;
    if (!whole.ok()) return whole;
    if (!whole.value()) return cut_off();
    BF_RETURN_IF_ERROR(landed(event->block, *to));
    return true;
  }

  std::byte* landing_slot(const Block& block) const override { return slot(window_.last_freed_slot(block)); }

  void hang_up() noexcept override {
    hung_up_ = true;
    for (TcpConnection& channel : channels_) channel.hang_up();
  }

  void window_moved() override {
    if (auto released = window_.due_credit()) queue_.announce(*released);
  }

  const bool to_device_;
  std::atomic<Clock::time_point> sent_at_{};  // the latest block
  std::vector<TcpConnection> channels_;
  std::atomic<bool> hung_up_{false};
};

class TcpLink : public Link {
 public:
  TcpLink(TcpConnection calls, TcpConnection side, std::vector<TcpConnection> bulk, End end)
      : limits_{"tcp", false, true, limits::kTcpBulkBlocks, uint32_t(bulk.size()), false},
        calls_(std::move(calls)),
        side_(std::move(side)),
        bulk_(std::move(bulk), end, [this] { shut(); }) {}

  ~TcpLink() override {
    shut();
    bulk_.stop();
  }

  Stream& calls() override { return calls_; }
  Stream& side() override { return side_; }
  Bulk& bulk() override { return bulk_; }
  const Limits& limits() const override { return limits_; }

  void shut() noexcept override {
    calls_.shut();
    side_.shut();
    bulk_.shut(Status(StatusCode::kUnavailable, "the link was shut"));
  }

 private:
  Limits limits_;
  TcpStream calls_;
  TcpStream side_;
  TcpBulk bulk_;
};

}  // namespace

std::unique_ptr<Link> make_tcp_link(Fd calls, Fd side, std::vector<Fd> bulk, End end) {
  BF_CHECK(!bulk.empty());
  std::vector<TcpConnection> channels;
  for (Fd& fd : bulk) channels.emplace_back(std::move(fd));
  return std::make_unique<TcpLink>(TcpConnection(std::move(calls)), TcpConnection(std::move(side)), std::move(channels), end);
}

Result<std::unique_ptr<Link>> make_tls_link(Fd calls, Fd side, std::vector<Fd> bulk, std::string_view session_key,
                                            End end, std::chrono::milliseconds timeout) {
  BF_CHECK(!bulk.empty());
  auto deadline = std::chrono::steady_clock::now() + timeout;
  std::vector<TcpConnection> all;
  all.emplace_back(std::move(calls));
  all.emplace_back(std::move(side));
  for (Fd& fd : bulk) all.emplace_back(std::move(fd));
  BF_RETURN_IF_ERROR(run_together(all.size(), [&](size_t i) {
    return all[i].secure(secrets::tls_key(session_key, int32_t(i) - 1), end == End::kWorker, deadline);
  }));
  std::vector<TcpConnection> channels(std::make_move_iterator(all.begin() + 2), std::make_move_iterator(all.end()));
  return std::unique_ptr<Link>(new TcpLink(std::move(all[0]), std::move(all[1]), std::move(channels), end));
}

}  // namespace bf::transport
