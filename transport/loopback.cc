// loopback: both ends of a link in one process. The reference for what a transport does, with faults for those who test
// the layers above.
//
// Everything that both ends touch lies in one Core, which each end keeps alive. A direction has two pipes (calls, side)
// and a queue of bulk blocks on their way. A delay is kept per piece (ready when sent + delay), so it adds latency, not
// a limit on throughput.
#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>

#include "transport/bulk_engine.h"

namespace bf::transport {
namespace {

using Clock = std::chrono::steady_clock;

Status unavailable(const char* why) { return {StatusCode::kUnavailable, why}; }

// One byte stream in one direction. Holds at most kCapacity bytes, so senders feel a slow receiver as they would on a
// socket.
class Pipe {
 public:
  explicit Pipe(const Faults& faults) : faults_(faults) {}

  Status send(const std::byte* data, size_t bytes) {
    std::unique_lock lock(mutex_);
    while (bytes > 0) {
      changed_.wait(lock, [&] { return ended_ || held_ < kCapacity; });
      if (ended_) return unavailable(why_);
      size_t count = std::min(bytes, kCapacity - held_);
      pieces_.push_back({{data, data + count}, 0, Clock::now() + faults_.delay});
      held_ += count;
      data += count;
      bytes -= count;
      changed_.notify_all();
    }
    return ended_ ? unavailable(why_) : ok_status();
  }

  Result<size_t> receive(std::span<std::byte> buffer) {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (receiver_shut_) return unavailable(why_);
      if (!pieces_.empty()) {
        Piece& piece = pieces_.front();
        if (Clock::now() < piece.ready_at) {
          changed_.wait_until(lock, piece.ready_at);
          continue;
        }
        size_t count = std::min(buffer.size(), piece.bytes.size() - piece.taken);
        if (faults_.split_bytes > 0) count = std::min(count, faults_.split_bytes);
        memcpy(buffer.data(), piece.bytes.data() + piece.taken, count);
        piece.taken += count;
        held_ -= count;
        if (piece.taken == piece.bytes.size()) pieces_.pop_front();
        changed_.notify_all();
        return count;
      }
      if (ended_) return in_order_ ? Result<size_t>(size_t{0}) : Result<size_t>(unavailable(why_));
      changed_.wait(lock);
    }
  }

  bool ready() {
    std::lock_guard lock(mutex_);
    return receiver_shut_ || (pieces_.empty() ? ended_ : Clock::now() >= pieces_.front().ready_at);
  }

  void wait_until_ready() {
    std::unique_lock lock(mutex_);
    while (!receiver_shut_ && pieces_.empty() && !ended_) changed_.wait(lock);
    if (receiver_shut_ || pieces_.empty()) return;
    const auto ready_at = pieces_.front().ready_at;  // the piece may be gone by then
    changed_.wait_until(lock, ready_at, [this] { return receiver_shut_; });
  }

  // No more bytes come; what was sent still arrives. `in_order`: the receiver then reads an end, else a failure.
  void end(bool in_order, const char* why) {
    std::lock_guard lock(mutex_);
    if (!ended_) {
      ended_ = true;
      in_order_ = in_order;
      why_ = why;
    }
    changed_.notify_all();
  }

  // The receiver wants no more.
  void end_receiver(const char* why) {
    end(true, why);
    std::lock_guard lock(mutex_);
    receiver_shut_ = true;
    changed_.notify_all();
  }

 private:
  static constexpr size_t kCapacity = 1 << 20;
  struct Piece {
    std::vector<std::byte> bytes;
    size_t taken;
    Clock::time_point ready_at;
  };

  const Faults faults_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;
  size_t held_ = 0;
  bool ended_ = false;
  bool in_order_ = true;
  bool receiver_shut_ = false;
  const char* why_ = "";
};

// Everything that goes one way.
struct Direction {
  explicit Direction(const Faults& f) : faults(f), calls(f), side(f) {}

  // How many of `bytes` more stream bytes still pass before the cut.
  size_t before_cut(size_t bytes) {
    if (faults.cut_after_bytes == 0) return bytes;
    uint64_t at = stream_bytes.fetch_add(bytes);
    return at >= faults.cut_after_bytes ? 0 : size_t(std::min<uint64_t>(bytes, faults.cut_after_bytes - at));
  }

  const Faults faults;
  Pipe calls;
  Pipe side;
  std::atomic<uint64_t> stream_bytes{0};
};

class LoopbackBulk : public BulkEngine {
 public:
  LoopbackBulk(const Faults& outgoing, std::function<void()> link_failed)
      : BulkEngine({0, 1}, {0, 1}, limits::kBulkBlocks, limits::kBulkBlocks, false, std::move(link_failed)),
        delay_(outgoing.delay),
        backwards_(outgoing.bulk_backwards) {
    memory_.reset(new (std::align_val_t(4096), std::nothrow) std::byte[kBytes]);
    if (memory_) ring_ = {memory_.get(), kBytes};
  }
  ~LoopbackBulk() override { stop(); }

  void connect(LoopbackBulk& peer) { peer_ = &peer; }

 private:
  static constexpr size_t kBytes = limits::kBulkBlocks * limits::kBulkBlockBytes;
  struct AlignedDelete {
    void operator()(std::byte* memory) const { operator delete[](memory, std::align_val_t(4096)); }
  };
  struct Arrival {
    Block block;
    Clock::time_point ready_at;
  };

  Status write(uint32_t, const SendQueue::Job& job) override {
    if (peer_->ring_.empty()) return unavailable("the peer has no landing ring");
    memcpy(peer_->slot(job.block.sequence), job.data, job.block.bytes);
    std::lock_guard lock(peer_->mutex_);
    if (peer_->ended_) return unavailable("the peer closed the link");
    auto& arriving = peer_->arriving_;
    if (backwards_ && !arriving.empty()) {
      arriving.push_front({job.block, arriving.front().ready_at});
    } else {
      arriving.push_back({job.block, Clock::now() + delay_});
    }
    peer_->changed_.notify_all();
    return ok_status();
  }

  Result<bool> read(uint32_t) override {
    Block block;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ended_ || !arriving_.empty(); });
      auto ready_at = arriving_.empty() ? Clock::time_point() : arriving_.front().ready_at;
      changed_.wait_until(lock, ready_at, [&] { return hung_up_; });
      if (hung_up_ || arriving_.empty()) return false;
      block = arriving_.front().block;
      arriving_.pop_front();
    }
    if (!window_.admit(block)) return Status(StatusCode::kInvalid, "a bulk block outside its window");
    auto to = target(block);
    if (!to.ok()) return to.status();
    BF_RETURN_IF_ERROR(landed(block, *to));
    return true;
  }

  void hang_up() noexcept override {
    {
      std::lock_guard lock(mutex_);
      if (hung_up_) return;  // also: never touch the peer after this side's link is gone
      hung_up_ = ended_ = true;
      changed_.notify_all();
    }
    std::lock_guard lock(peer_->mutex_);
    peer_->ended_ = true;
    peer_->changed_.notify_all();
  }

  void window_moved() override { peer_->queue_.credit(window_.released()); }

  const std::chrono::microseconds delay_;
  const bool backwards_;
  LoopbackBulk* peer_ = nullptr;
  std::unique_ptr<std::byte[], AlignedDelete> memory_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Arrival> arriving_;  // bounded by the window
  bool ended_ = false;            // either side hung up: what is under way still arrives
  bool hung_up_ = false;          // this side
};

// 0: the client's end, 1: the worker's.
struct Core {
  Core(const Faults& to_worker, const Faults& to_client)
      : sent{Direction(to_worker), Direction(to_client)},
        bulk{LoopbackBulk(to_worker, [this] { shut(0); }), LoopbackBulk(to_client, [this] { shut(1); })} {
    bulk[0].connect(bulk[1]);
    bulk[1].connect(bulk[0]);
  }

  void shut(int end) {
    static constexpr char kWhy[] = "the link was shut";
    for (Pipe* out : {&sent[end].calls, &sent[end].side}) out->end(true, kWhy);
    for (Pipe* in : {&sent[1 - end].calls, &sent[1 - end].side}) in->end_receiver(kWhy);
    bulk[end].shut(unavailable(kWhy));
  }

  // The wire is cut: both ends lose it.
  void cut() {
    static constexpr char kWhy[] = "the link was cut";
    for (Direction& direction : sent)
      for (Pipe* pipe : {&direction.calls, &direction.side}) pipe->end(false, kWhy);
    for (LoopbackBulk& one : bulk) one.shut(unavailable(kWhy));
  }

  std::array<Direction, 2> sent;
  std::array<LoopbackBulk, 2> bulk;
};

class LoopbackStream : public Stream {
 public:
  LoopbackStream(Core& core, int end, Pipe Direction::*pipe)
      : core_(core), out_(core.sent[end]), in_(core.sent[1 - end]), pipe_(pipe) {}

  Status send(std::span<const iovec> parts) override {
    for (const iovec& part : parts) {
      auto* data = static_cast<const std::byte*>(part.iov_base);
      size_t passing = out_.before_cut(part.iov_len);
      BF_RETURN_IF_ERROR(send_part(data, passing));
      if (passing < part.iov_len) {
        core_.cut();
        return unavailable("the link was cut");
      }
    }
    return ok_status();
  }

  Result<size_t> receive(std::span<std::byte> buffer) override { return (in_.*pipe_).receive(buffer); }
  bool ready() override { return (in_.*pipe_).ready(); }
  void wait_until_ready() override { (in_.*pipe_).wait_until_ready(); }

  void shut() noexcept override {
    (out_.*pipe_).end(true, "the stream was shut");
    (in_.*pipe_).end_receiver("the stream was shut");
  }

 private:
  // With the byte to corrupt turned around, if it lies in this part of the calls stream.
  Status send_part(const std::byte* data, size_t bytes) {
    uint64_t at = out_.faults.corrupt_at_byte - position_;
    position_ += bytes;
    if (pipe_ != &Direction::calls || at >= bytes) return (out_.*pipe_).send(data, bytes);
    std::vector<std::byte> changed(data, data + bytes);
    changed[at] = ~changed[at];
    return (out_.*pipe_).send(changed.data(), bytes);
  }

  Core& core_;
  Direction& out_;
  Direction& in_;
  Pipe Direction::*const pipe_;
  uint64_t position_ = 0;  // bytes sent so far
};

class LoopbackLink : public Link {
 public:
  LoopbackLink(std::shared_ptr<Core> core, int end)
      : core_(std::move(core)),
        end_(end),
        calls_(*core_, end, &Direction::calls),
        side_(*core_, end, &Direction::side) {}

  ~LoopbackLink() override {
    shut();
    core_->bulk[end_].stop();
  }

  Stream& calls() override { return calls_; }
  Stream& side() override { return side_; }
  Bulk& bulk() override { return core_->bulk[end_]; }
  const Limits& limits() const override { return limits_; }
  void shut() noexcept override { core_->shut(end_); }

 private:
  const Limits limits_{"loopback", true, false, limits::kBulkBlocks, 1, true};
  std::shared_ptr<Core> core_;
  const int end_;
  LoopbackStream calls_;
  LoopbackStream side_;
};

}  // namespace

LoopbackPair make_loopback(const Faults& to_worker, const Faults& to_client) {
  auto core = std::make_shared<Core>(to_worker, to_client);
  return {std::make_unique<LoopbackLink>(core, 0), std::make_unique<LoopbackLink>(core, 1)};
}

}  // namespace bf::transport
