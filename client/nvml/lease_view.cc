#include "client/nvml/lease_view.h"

#include <unistd.h>

#include "base/limits.h"
#include "proto/control_channel.h"
#include "proto/secrets.h"

namespace bf::client {

using Clock = std::chrono::steady_clock;

Result<std::unique_ptr<LeaseView>> LeaseView::open(AttachSettings settings) {
  if (settings.server.empty()) return Status(StatusCode::kUnavailable, "this process was not started with bfrun");
  std::unique_ptr<LeaseView> view(new LeaseView(std::move(settings)));
  view->devices_.resize(1);
  BF_RETURN_IF_ERROR(view->refresh(0, true));
  view->devices_.resize(view->devices_[0]->books.devices);
  return view;
}

Result<std::shared_ptr<const LeaseView::Device>> LeaseView::device(size_t index, Want want) {
  std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  const auto& known = devices_[index];
  const bool sample = want == Want::kSample && (!known || now - known->sampled_at >= kSampleAge);
  const bool books = want == Want::kBooks || (want == Want::kRecent && (!known || now - known->asked_at >= kRecentAge));
  if (!known || sample || books) BF_RETURN_IF_ERROR(refresh(index, !known || sample));
  return devices_[index];
}

Result<std::string> LeaseView::round_trip(const std::string& body) {
  const auto deadline = control::deadline_in(kTimeout);
  if (owner_ != getpid()) {
    socket_.reset();  // our parent's conversation
    owner_ = getpid();
  }
  // The server hangs up on connections that say nothing for a while; that is no failure.
  for (const bool fresh : {false, true}) {
    if (!socket_) {
      transport::Address address;
      auto dialled = dial_server(settings_, deadline, &address);
      if (!dialled.ok()) return dialled.status();
      socket_ = std::move(dialled->socket);
    }
    auto reply = control::round_trip(socket_.get(), Opcode::kReading, body, deadline);
    if (reply.ok()) return reply;
    socket_.reset();
    if (fresh || reply.status().code() != StatusCode::kUnavailable) return reply.status();
  }
  return Status(StatusCode::kUnavailable, "the server is gone");
}

Status LeaseView::refresh(size_t index, bool sampled) {
  if (!lost_.ok() && Clock::now() < lost_until_) return lost_;
  auto fresh = devices_[index] ? std::make_shared<Device>(*devices_[index]) : std::make_shared<Device>();
  control::ReadingRequest request;
  request.lease_id = settings_.lease;
  request.proof = secrets::reading_proof(settings_.secret);
  request.device = uint32_t(index);
  request.sampled = sampled;
  request.facts_seen = fresh->books.facts_version;
  request.sample_seen = fresh->books.sample_version;
  const auto take = [&]() -> Status {
    auto body = round_trip(control::encode_ReadingRequest(request));
    if (!body.ok()) return body.status();
    auto reply = control::decode_ReadingReply(control::as_bytes(*body));
    if (!reply.ok()) return reply.status();
    if (reply->status != 0) return control::to_status(reply->status, reply->message);
    if (reply->devices == 0 || reply->devices > limits::kDevices ||
        (devices_.size() > 1 && reply->devices != devices_.size()))
      return {StatusCode::kInvalid,
              "the server says that the lease has " + std::to_string(reply->devices) + " devices"};
    if (!fresh->answers || !reply->facts.empty() || !reply->sample.empty()) {
      const bool known = fresh->answers && reply->facts.empty();
      auto answers = known ? std::make_shared<nvml::Answers>(*fresh->answers) : std::make_shared<nvml::Answers>();
      BF_RETURN_IF_ERROR(answers->merge(reply->facts));
      BF_RETURN_IF_ERROR(answers->merge(reply->sample));
      fresh->answers = std::move(answers);
    }
    if (!fresh->system || !reply->facts.empty()) {
      auto system = std::make_shared<nvml::Answers>();
      BF_RETURN_IF_ERROR(system->merge(reply->system));
      fresh->system = std::move(system);
    }
    for (std::string* taken : {&reply->facts, &reply->sample, &reply->system}) taken->clear();
    fresh->books = std::move(*reply);
    return {};
  };
  lost_ = take();
  if (!lost_.ok()) {
    lost_until_ = Clock::now() + kLostTime;
    return lost_;
  }
  fresh->asked_at = Clock::now();
  if (sampled) fresh->sampled_at = fresh->asked_at;
  devices_[index] = std::move(fresh);
  return {};
}

}  // namespace bf::client
