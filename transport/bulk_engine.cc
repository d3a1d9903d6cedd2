#include "transport/bulk_engine.h"

namespace bf::transport {
namespace {

Status never_agreed() { return {StatusCode::kInvalid, "the peer sent a bulk block that was never agreed"}; }

}  // namespace

BulkEngine::BulkEngine(Channels sends, Channels receives, uint32_t ring_blocks, uint64_t send_window, bool places,
                       std::function<void()> link_failed)
    : queue_(send_window),
      window_(ring_blocks),
      sends_(sends),
      receives_(receives),
      places_(places),
      link_failed_(std::move(link_failed)) {}

void BulkEngine::start(BulkSink& sink) {
  std::lock_guard lock(threads_mutex_);
  if (stopping_) return;
  sink_ = &sink;
  Status why = ring_.empty() ? Status(StatusCode::kExhausted, "no memory for the landing ring") : Status{};
  receivers_left_ = receives_.end - receives_.first + 1;  // one is this function, until all threads are started
  for (uint32_t channel = sends_.first; channel < sends_.end && why.ok(); channel++)
    why = add_thread("bf-bulk-send", [this, channel] { send_loop(channel); });
  for (uint32_t channel = receives_.first; channel < receives_.end; channel++) {
    if (why.ok()) why = add_thread("bf-bulk-recv", [this, channel] { receive_loop(channel); });
    if (!why.ok()) receivers_left_--;
  }
  if (!why.ok()) end(why);
  receiver_left();
}

uint64_t BulkEngine::send(uint64_t transfer, const void* data, size_t bytes, SendQueue::Sent sent) {
  return queue_.push(transfer, data, bytes, std::move(sent));
}

void BulkEngine::release(const Block& block) {
  if (window_.release(block)) window_moved();
}

void BulkEngine::stop() noexcept {
  stopping_ = true;
  queue_.stop();
  hang_up();
  std::lock_guard lock(threads_mutex_);
  threads_.clear();  // joins
  while (queue_.take()) {
  }  // callbacks still due where no thread could be started
}

void BulkEngine::shut(const Status& why) noexcept {
  {
    std::lock_guard lock(why_mutex_);
    if (why_.ok()) why_ = why;
  }
  queue_.fail(why);
  hang_up();
}

Result<BulkEngine::Target> BulkEngine::target(const Block& block) {
  std::byte* place = places_ ? sink_->place(block) : nullptr;
  if (place == kReject) return never_agreed();
  return place ? Target{place, true} : Target{landing_slot(block), false};
}

Status BulkEngine::landed(const Block& block, const Target& target) {
  if (!sink_->landed(block, target.data)) return never_agreed();
  if (target.placed) window_.release(block);
  window_moved();
  return ok_status();
}

void BulkEngine::send_loop(uint32_t channel) {
  while (auto job = queue_.take(channel - sends_.first)) {
    Status status = write(channel, *job);
    if (!job->is_credit) queue_.finish(*job);
    if (!status.ok()) end(status);
  }
}

void BulkEngine::receive_loop(uint32_t channel) {
  prefer_short_slices();
  Result<bool> more = true;
  while (more.ok() && more.value()) more = read(channel);
  end(more.ok() ? Status(StatusCode::kUnavailable, "the peer closed the link") : more.status());
  receiver_left();
}

// Bulk is over. If the peer stopped its bulk (kUnavailable), the streams go on; a lie or a broken network ends the
// link.
void BulkEngine::end(const Status& why) {
  {
    std::lock_guard lock(why_mutex_);
    if (why_.ok()) why_ = why;
  }
  queue_.fail(why);
  if (why.code() != StatusCode::kUnavailable && !stopping_) link_failed_();
}

// The last receiver to leave tells the sink, so that no block comes after lost().
void BulkEngine::receiver_left() {
  if (--receivers_left_ != 0 || stopping_) return;
  Status why;
  {
    std::lock_guard lock(why_mutex_);
    why = why_;
  }
  sink_->lost(why);
}

Status BulkEngine::add_thread(const char* name, std::function<void()> body) {
  auto thread = Thread::start(name, std::move(body));
  if (thread.ok()) threads_.push_back(std::move(thread).value());
  return thread.status();
}

}  // namespace bf::transport
