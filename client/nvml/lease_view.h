// What a process under bfrun may know of its GPUs without using them: the readings that bfserver hands out for the
// lease.
//
// One connection, made when it is needed and made again when it broke. Everything is safe from any thread; a forked
// child makes a connection of its own.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "client/attach.h"
#include "proto/control.h"
#include "proto/nvml/answers.h"

namespace bf::client {

class LeaseView {
 public:
  static constexpr auto kTimeout = std::chrono::seconds(4);  // one request; the server waits 2 s for a sample at most
  static constexpr auto kSampleAge = std::chrono::seconds(1);
  static constexpr auto kRecentAge = std::chrono::milliseconds(100);
  static constexpr auto kLostTime = std::chrono::seconds(1);  // after a failure: answered without another try

  enum class Want {
    kFacts,   // whatever is known
    kSample,  // a sample at most kSampleAge old
    kRecent,  // the books as they were kRecentAge ago, or later
    kBooks,   // the books as they are now
  };
  // A device of the lease. `books` has no facts and samples: those are in `answers`.
  struct Device {
    control::ReadingReply books;
    std::shared_ptr<const nvml::Answers> answers;
    std::shared_ptr<const nvml::Answers> system;
    std::chrono::steady_clock::time_point asked_at{}, sampled_at{};
  };

  // Asks for the first device; the lease has `devices()` of them from then on. kUnavailable when the server does not
  // answer, kDenied when it does not know the lease.
  static Result<std::unique_ptr<LeaseView>> open(AttachSettings settings);

  size_t devices() const { return devices_.size(); }
  // `index` below devices(). Keeps what it returns; later readings are other objects.
  Result<std::shared_ptr<const Device>> device(size_t index, Want want);

  // Around fork(): no other thread may be inside.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  explicit LeaseView(AttachSettings settings) : settings_(std::move(settings)) {}

  Result<std::string> round_trip(const std::string& body);
  Status refresh(size_t index, bool sampled);

  const AttachSettings settings_;
  std::mutex mutex_;
  Fd socket_;
  pid_t owner_ = 0;  // the process that made the connection
  Status lost_;
  std::chrono::steady_clock::time_point lost_until_{};
  std::vector<std::shared_ptr<const Device>> devices_;
};

}  // namespace bf::client
