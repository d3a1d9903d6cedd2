#include "server/daemon/guests.h"

#include <algorithm>
#include <cstdlib>

#include "base/log.h"
#include "base/random.h"
#include "proto/secrets.h"

namespace bf::daemon {
namespace {

constexpr int64_t kTolerableSkew = 300;  // seconds

std::string date(time_t time) {
  char text[32] = "";
  tm parts{};
  ::gmtime_r(&time, &parts);
  ::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &parts);
  return text;
}

}  // namespace

std::optional<std::chrono::seconds> Guesses::pause(const std::string& address, Clock::time_point now) const {
  auto found = failures_.find(address);
  if (found == failures_.end() || found->second.until <= now) return std::nullopt;
  return std::chrono::ceil<std::chrono::seconds>(found->second.until - now);
}

void Guesses::failed(const std::string& address, Clock::time_point now) {
  if (failures_.size() >= kAddresses) std::erase_if(failures_, [&](auto& entry) { return now - entry.second.last > kForgotten; });
  if (failures_.size() >= kAddresses && !failures_.contains(address)) {
    auto oldest = std::min_element(failures_.begin(), failures_.end(),
                                   [](auto& a, auto& b) { return a.second.last < b.second.last; });
    failures_.erase(oldest);
  }
  Failures& failures = failures_[address];
  if (now - failures.last > kForgotten) failures.count = 0;
  failures.last = now;
  int beyond = ++failures.count - kFree;
  if (beyond >= 0) failures.until = now + std::min<Clock::duration>(kLongestPause, std::chrono::seconds(1 << std::min(beyond, 10)));
}

control::AuthReply check_token(const Store& store, const control::AuthRequest& request, time_t unix_time, Identity* who) {
  control::AuthReply reply;
  auto refuse = [&](std::string why) {
    reply.status = uint32_t(StatusCode::kDenied);
    reply.message = std::move(why);
    return reply;
  };
  const Token* token = store.token(request.token_id);
  // The same work whether the token is known or not.
  static const std::string nobody(32, '\0');
  bool right = equal_secrets(secrets::digest(request.secret), token != nullptr ? token->hash : nobody);
  if (token == nullptr || !right) return refuse("authentication required: the token is not valid here");
  int64_t skew = int64_t(request.unix_time) - int64_t(unix_time);
  std::string clocks = std::abs(skew) <= kTolerableSkew
                           ? ""
                           : fmt::format("this machine's clock is {} minutes {} the server's", std::abs(skew) / 60,
                                         skew > 0 ? "ahead of" : "behind");
  if (token->disabled) return refuse(fmt::format("the token '{}' is disabled; ask the pool's administrator", token->name));
  if (token->expires != 0 && unix_time >= token->expires)
    return refuse(fmt::format("the token '{}' expired on {}; ask the pool's administrator for a new one{}", token->name,
                              date(token->expires), clocks.empty() ? "" : " (" + clocks + ")"));
  reply.client = token->name;
  reply.admin = token->admin;
  if (!clocks.empty()) reply.message = clocks + "; set both, or tokens expire at the wrong time";
  *who = {.known = true, .admin = token->admin, .client = token->name, .group = token->group, .token_id = token->id};
  return reply;
}

}  // namespace bf::daemon
