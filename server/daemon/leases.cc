// bfserver's requests about leases: reserve, commit, hold; and how leases end.
#include "server/daemon/daemon.h"
#include "server/daemon/log.h"

namespace bf::daemon {
namespace {

using Clock = EventLoop::Clock;

std::string minutes(uint32_t seconds) {
  return seconds % 60 == 0 ? fmt::format("{} min", seconds / 60) : fmt::format("{} s", seconds);
}

template <typename Reply>
Reply refusal(const Status& why) {
  Reply reply;
  reply.status = uint32_t(why.code());
  reply.message = why.message();
  return reply;
}

}  // namespace

// --- taking ----------------------------------------------------------------------------------------------------------

Taken Daemon::taken_by(const control::LeaseRequest& request, const std::vector<Share>& shares) const {
  Taken taken;
  for (auto& share : shares) {
    // What people asked for, not what rounding to blocks made of it.
    double part = double(share.bytes) / double(inventory_.gpus[share.gpu].capacity_bytes);
    taken.gpus.push_back(wants_whole(request) ? 1 : request.fraction > 0 ? request.fraction : part);
    taken.memory_mib += int64_t(share.bytes >> 20);
  }
  return taken;
}

Claim Daemon::claim_of(const Lease& lease) const {
  return {lease.id, lease.owner.client, lease.owner.group, taken_by(lease.request, lease.shares)};
}

// As far as this server's own leases tell: all there is to know, unless the pool is larger.
Status Daemon::check_own_limits(const Identity& who, const control::LeaseRequest& request, const std::vector<Share>& shares) const {
  std::vector<Holding> held;
  for (auto& [id, lease] : leases_.all())
    held.push_back({lease.owner.client, lease.owner.group, true, taken_by(lease.request, lease.shares)});
  return check_limits(store_->limits(), who.client, who.group, held, taken_by(request, shares));
}

Result<Lease*> Daemon::try_reserve(Connection& connection, const control::LeaseRequest& request) {
  if (draining_) return Status{StatusCode::kExhausted, "the server takes no new leases at the moment"};
  if (auto& note = watch_.server_note(); !note.empty()) return Status{StatusCode::kExhausted, "the server takes no new leases: " + note};
  // In the order of how well a reason explains itself: what is never possible, what a limit forbids, what is not free.
  std::vector<GpuState> idle = inventory_.gpus;
  for (auto& gpu : idle) gpu.promised_bytes = gpu.leases = 0;
  auto ideal = place(idle, request);
  if (!ideal.ok()) return ideal.status();
  if (Status within = check_own_limits(connection.identity(), request, *ideal); !within.ok()) {
    waiting_.forget(connection.id());  // it waits for itself, not for a GPU
    return within;
  }
  if (auto now = place(inventory_.gpus, request); !now.ok()) {
    waiting_.refused(connection.id(), request, Clock::now());
    return now.status();
  }
  auto visible = waiting_.visible(inventory_.gpus, connection.id(), Clock::now());
  auto lease = leases_.reserve(request, connection.identity(), connection.id(), visible);
  if (lease.ok()) {
    waiting_.forget(connection.id());
  } else if (lease.status().code() != StatusCode::kInternal) {
    waiting_.refused(connection.id(), request, Clock::now());
    return Status{StatusCode::kExhausted, "what is free is for clients that have waited longer"};
  }
  return lease;
}

void Daemon::reserve(Connection& connection, const std::string& body) {
  auto request = control::decode_LeaseRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  if (leases_.find_by_connection(connection.id()) != nullptr)
    return refuse(connection, {StatusCode::kInvalid, "this connection already holds a lease; open another"});
  auto lease = try_reserve(connection, *request);
  if (!lease.ok())
    return connection.reply(Opcode::kReserve,
                            control::encode_ReserveReply(refusal<control::ReserveReply>(lease.status())));
  connection.hold();
  state_->claim(claim_of(**lease), [this, asker = connection.id(), id = (*lease)->id](Status claimed) {
    auto found = connections_.find(asker);
    if (found != connections_.end()) return answer_reserve(*found->second, id, claimed);
    state_->release(id);  // nobody waits for it any more
  });
}

void Daemon::answer_reserve(Connection& connection, const std::string& lease_id, const Status& claimed) {
  connection.release();
  Lease* lease = leases_.find(lease_id);
  Status granted = claimed;
  if (lease == nullptr && claimed.ok()) {
    state_->release(lease_id);
    granted = {StatusCode::kExhausted, "the pool's shared state took too long to answer"};
  }
  if (!granted.ok()) {
    if (lease != nullptr) leases_.release(*lease);
    return connection.reply(Opcode::kReserve, control::encode_ReserveReply(refusal<control::ReserveReply>(granted)));
  }
  lease->reserved = Clock::now();
  control::ReserveReply reply;
  reply.reservation_id = lease->id;
  reply.ttl_ms = uint32_t(std::chrono::milliseconds(kReservationTime).count());
  connection.reply(Opcode::kReserve, control::encode_ReserveReply(reply));
}

void Daemon::commit(Connection& connection, const std::string& body) {
  auto request = control::decode_CommitRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  auto committed = leases_.commit(request->reservation_id, connection.id());
  if (!committed.ok())
    return connection.reply(Opcode::kLease,
                            control::encode_LeaseReply(refusal<control::LeaseReply>(committed.status())));
  Lease& lease = **committed;
  if (!lease.detached()) connection.keep();
  if (lease.shares.size() == 1) workers_.set_aside(lease.shares[0].gpu, lease.id);
  for (auto& share : lease.shares) workers_.make_room(share.gpu);
  for (auto& share : lease.shares)
    log::info("lease {}: {} MiB of GPU {} for {} ({}, process {})", lease.id, share.bytes >> 20,
              inventory_.gpus[share.gpu].facts.index, lease.request.program, lease.request.client_name,
              lease.request.client_pid);
  audit_.write("lease", {{"lease", lease.id},
                         {"client", lease.owner.client},
                         {"host", lease.request.client_name},
                         {"peer", connection.peer()},
                         {"program", lease.request.program},
                         {"gpus", gpu_list(lease)},
                         {"mib", int64_t(lease.shares.empty() ? 0 : lease.shares[0].bytes >> 20)},
                         {"detached", int64_t(lease.detached())}});
  answer_lease(connection, Opcode::kLease, lease);
}

// "0,3": positions of the GPUs.
std::string Daemon::gpu_list(const Lease& lease) const {
  std::string list;
  for (auto& share : lease.shares)
    list += (list.empty() ? "" : ",") + std::to_string(inventory_.gpus[share.gpu].facts.index);
  return list;
}

void Daemon::hold(Connection& connection, const std::string& body) {
  auto request = control::decode_HoldRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  Lease* lease = leases_.find(request->lease_id);
  const Identity& who = connection.identity();
  auto fail = [&](Status why) {
    connection.reply(Opcode::kHold, control::encode_LeaseReply(refusal<control::LeaseReply>(why)));
  };
  // Somebody else's lease does not exist, as far as this client may know.
  if (lease == nullptr || !lease->detached() || lease->state == Lease::State::kReserved ||
      (lease->owner.client != who.client && !who.admin))
    return fail({StatusCode::kDenied, "there is no lease " + request->lease_id + " of yours here"});
  if (lease->state == Lease::State::kEnding)
    return fail({StatusCode::kUnavailable, "the lease " + lease->id + " has ended: " + lease->end_reason});
  if (leases_.find_by_connection(connection.id()) != nullptr)
    return fail({StatusCode::kInvalid, "this connection already holds a lease; open another"});
  lease->holders.insert(connection.id());
  connection.keep();
  answer_lease(connection, Opcode::kHold, *lease);
}

void Daemon::answer_lease(Connection& connection, Opcode opcode, const Lease& lease) {
  control::LeaseReply reply = leases_.describe(lease);
  reply.encrypt = must_encrypt(connection);
  connection.reply(opcode, control::encode_LeaseReply(reply));
}

void Daemon::settle(Connection& connection) {
  Lease* lease = leases_.find_by_connection(connection.id());
  if (lease == nullptr || workers_.serving(lease->id) == 0) return connection.reply(Opcode::kSettle, {});
  lease->settling.insert(connection.id());  // tell_holders() answers
}

// --- ends ------------------------------------------------------------------------------------------------------------

void Daemon::on_holder_lost(Connection& connection, Lease& lease) {
  lease.settling.erase(connection.id());
  if (lease.holders.erase(connection.id()) > 0) {
    lease.last_used = Clock::now();
  } else if (lease.state == Lease::State::kReserved) {
    forget_lease(lease);
  } else if (lease.state == Lease::State::kActive) {
    end_lease(lease, "its client has left");
  } else {
    lease.connection = 0;
  }
}

void Daemon::end_lease(Lease& lease, const std::string& why) {
  if (lease.state == Lease::State::kEnding) return;
  lease.state = Lease::State::kEnding;
  lease.end_reason = why;
  auto tell = [&](uint64_t id) {
    auto found = connections_.find(id);
    if (found == connections_.end()) return;
    found->second->keep(false);
    if (!found->second->busy()) refuse(*found->second, {StatusCode::kUnavailable, why});
  };
  uint64_t connection = std::exchange(lease.connection, 0);
  for (uint64_t holder : std::exchange(lease.holders, {})) tell(holder);
  tell(connection);
  workers_.end_lease(lease.id);
  release_if_over(lease);
}

void Daemon::release_if_over(Lease& lease) {
  if (lease.state != Lease::State::kEnding || workers_.serving(lease.id) > 0) return;  // on_session_end() comes back
  log::info("lease {} ended: {}", lease.id, lease.end_reason);
  audit_.write("lease-ended", {{"lease", lease.id},
                               {"client", lease.owner.client},
                               {"seconds", ::time(nullptr) - lease.began_unix},
                               {"why", lease.end_reason}});
  Status recorded = store_->record({lease.id, lease.owner.client, lease.request.client_name, lease.request.program,
                                    lease.began_unix, ::time(nullptr), uint32_t(lease.shares.size()),
                                    uint64_t(taken_by(lease.request, lease.shares).memory_mib), lease.end_reason});
  if (!recorded.ok()) log::warn("{}", recorded.message());
  forget_lease(lease);
  if (!stopping_) workers_.keep_warm(options_.warm_workers);  // those that gave way may come back
}

void Daemon::forget_lease(Lease& lease) {
  state_->release(lease.id);
  leases_.release(lease);
}

void Daemon::drain(uint32_t deadline_s) {
  draining_ = true;
  loop_.cancel(drain_timer_);
  log::info("draining: no new leases{}", deadline_s == 0 ? "" : fmt::format("; those left after {} s are ended", deadline_s));
  audit_.write("drain", {{"deadline", int64_t(deadline_s)}});
  if (deadline_s == 0) return;
  drain_timer_ = loop_.after(std::chrono::seconds(deadline_s), [this] {
    std::vector<std::string> left;
    for (auto& [id, lease] : leases_.all())
      if (lease.state == Lease::State::kActive) left.push_back(id);
    for (auto& id : left)
      if (Lease* lease = leases_.find(id)) end_lease(*lease, "the server was drained for maintenance");
  });
}

Clock::time_point Daemon::last_used(const Lease& lease, Clock::time_point now) const {
  Clock::time_point latest = lease.last_used;
  for (auto& worker : workers_.workers()) {
    if (!worker.serving || worker.lease_id != lease.id) continue;
    latest = std::max(latest, worker.report.outstanding > 0 ? now : worker.last_active);
  }
  return latest;
}

void Daemon::check_leases() {
  auto now = Clock::now();
  std::vector<std::pair<std::string, std::string>> over;  // lease, why
  for (auto& [id, lease] : leases_.all()) {
    if (lease.state == Lease::State::kReserved && now - lease.reserved > kReservationTime) over.emplace_back(id, "");
    if (lease.state != Lease::State::kActive) continue;
    if (lease.request.ttl_ms > 0 && now - lease.began > std::chrono::milliseconds(lease.request.ttl_ms))
      over.emplace_back(id, fmt::format("its time of {} is over", minutes(uint32_t(lease.request.ttl_ms / 1000))));
    else if (options_.idle_timeout_s > 0 && now - last_used(lease, now) > std::chrono::seconds(options_.idle_timeout_s))
      over.emplace_back(id, fmt::format("it was taken back after {} without a CUDA call (idle timeout)",
                                        minutes(options_.idle_timeout_s)));
    else if (options_.auto_release_s > 0 && lease.detached() && lease.holders.empty() &&
             workers_.serving(id) == 0 && now - lease.last_used > std::chrono::seconds(options_.auto_release_s))
      over.emplace_back(id, fmt::format("nobody used it for {}", minutes(options_.auto_release_s)));
  }
  for (auto& [id, why] : over) {
    Lease* lease = leases_.find(id);
    if (lease == nullptr) continue;
    if (lease->state == Lease::State::kReserved)
      forget_lease(*lease);
    else
      end_lease(*lease, why);
  }
}

}  // namespace bf::daemon
