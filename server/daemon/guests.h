// Admission: tokens, and patience with those who guess them.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "proto/control.h"
#include "server/daemon/identity.h"
#include "server/daemon/store.h"

namespace bf::daemon {

// Failures by address. After a few, an address has to wait longer and longer before it is heard again.
class Guesses {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr int kFree = 5;
  static constexpr auto kLongestPause = std::chrono::seconds(60);
  static constexpr auto kForgotten = std::chrono::minutes(10);
  static constexpr size_t kAddresses = 4096;

  // How long the address still has to wait; nothing if it may try.
  std::optional<std::chrono::seconds> pause(const std::string& address, Clock::time_point now) const;
  void failed(const std::string& address, Clock::time_point now);

 private:
  struct Failures {
    int count = 0;
    Clock::time_point last, until;
  };
  std::map<std::string, Failures> failures_;
};

// What the server answers to a token, in words that tell its holder what to do, and nobody else anything. Sets `who` if
// it is good. `unix_time` is the server's clock.
control::AuthReply check_token(const Store& store, const control::AuthRequest& request, time_t unix_time, Identity* who);

}  // namespace bf::daemon
