// bfserver's requests about sessions: a client process proves its lease and gets a worker.
#include <algorithm>

#include "base/cuda_environment.h"
#include "base/random.h"
#include "proto/secrets.h"
#include "server/daemon/daemon.h"
#include "server/daemon/log.h"

namespace bf::daemon {

void Daemon::refuse_attach(Connection& connection, const Status& why, bool device_twice) {
  log::info("{}: cannot attach: {}", connection.peer(), why.message());
  control::AttachReply reply;
  reply.status = uint32_t(why.code());
  reply.message = why.message();
  reply.device_twice = device_twice;
  connection.reply_and_close(Opcode::kAttach, kReply, control::encode_AttachReply(reply));
}

// Whether there is such a lease is not said before the proof.
void Daemon::attach(Connection& connection, std::string body) {
  auto request = control::decode_AttachRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  if (connection.kept()) return refuse_attach(connection, {StatusCode::kInvalid, "this connection holds a lease; open another"});
  if (request->protocol != control::kProtocolVersion)
    return refuse_attach(
        connection,
        {StatusCode::kInvalid,
         fmt::format("the program's Backfield speaks protocol {}, this server {}: install the same version on both",
                     request->protocol, control::kProtocolVersion)});
  std::string nonce = random_bytes(control::kSecretBytes);
  attaching_[connection.id()] = {std::move(body), std::move(*request), nonce};
  connection.reply(Opcode::kChallenge, control::encode_Challenge({nonce}));
}

bool Daemon::must_encrypt(const Connection& connection) const {
  if (connection.local() || options_.encryption == "never") return false;
  return options_.encryption == "always" || !connection.loopback();
}

// The devices of the lease that the program wants to see, in its order.
Result<std::vector<control::WorkerDevice>> Daemon::devices_of(const Lease& lease, const control::AttachRequest& request,
                                                              bool* device_twice) const {
  std::vector<control::WorkerDevice> all;
  for (auto& share : lease.shares) {
    auto& facts = inventory_.gpus[share.gpu].facts;
    all.push_back({facts.index, share.bytes, facts.context_bytes, facts.uuid, uint32_t(all.size())});
  }
  // The indices of the driver's inventory follow the bus.
  if (request.pci_order) std::ranges::sort(all, {}, &control::WorkerDevice::gpu_index);
  std::vector<std::string> uuids;
  for (auto& device : all) uuids.push_back(device.uuid);
  std::optional<std::string> text;
  if (request.choose_devices) text = request.visible_devices;
  const VisibleDevices chosen = choose_devices(text, uuids);
  *device_twice = chosen.twice;
  if (chosen.twice)
    return Status{StatusCode::kInvalid, "CUDA_VISIBLE_DEVICES=" + request.visible_devices + " names a device twice"};
  if (chosen.devices.empty())
    return Status{StatusCode::kImpossible,
                  fmt::format("CUDA_VISIBLE_DEVICES={} names none of the {} GPUs of the lease", request.visible_devices, all.size())};
  std::vector<control::WorkerDevice> devices;
  for (size_t position : chosen.devices) devices.push_back(all[position]);
  return devices;
}

// Everything that can be refused is refused here, before anything is changed.
Result<control::Assign> Daemon::admit(const Connection& connection, const Attaching& attaching, std::string_view proof,
                                      Lease** lease, bool* device_twice) {
  const control::AttachRequest& request = attaching.request;
  auto checked = leases_.check(request.lease_id, attaching.body, attaching.nonce, proof);
  if (!checked.ok()) return checked.status();
  const bool rdma = request.transport == "rdma" && !connection.local();
  if (!rdma && request.transport != (connection.local() ? "shm" : "tcp"))
    return Status{StatusCode::kInvalid, "the transport '" + request.transport + "' does not work over this connection"};
  if (rdma && (must_encrypt(connection) || request.encrypt))
    return Status{StatusCode::kDenied, "RDMA traffic is not encrypted, and this server wants sessions encrypted; use tcp, or allow plain sessions (bfserver --encryption never)"};
  if (must_encrypt(connection) && !request.encrypt)
    return Status{StatusCode::kDenied, "this server wants sessions encrypted; set BF_ENCRYPT=1, or use bfrun of the same version"};
  auto devices = devices_of(**checked, request, device_twice);
  if (!devices.ok()) return devices.status();
  auto slot = leases_.take_slot(**checked);
  if (!slot.ok()) return slot.status();
  *lease = *checked;
  control::Assign session;
  session.session_id = random_id();
  session.session_key = secrets::session_key((*lease)->secret, attaching.body, attaching.nonce);
  session.lease_id = (*lease)->id;
  session.devices = std::move(*devices);
  session.ledger_slot = *slot;
  session.transport = rdma && options_.rdma == "off" ? "tcp" : request.transport;  // which a client that asks for rdma may use, too
  if (rdma && options_.rdma != "on") session.rdma_address = options_.rdma;
  session.channels = connection.local() ? 0 : limits::kTcpChannels;
  session.client_pid = request.pid;
  session.program = request.program;
  session.encrypt = request.encrypt && !connection.local();
  if (images_) session.image_salt = images_->salt();
  return session;
}

void Daemon::prove(Connection& connection, const std::string& body) {
  auto proof = control::decode_Proof(control::as_bytes(body));
  auto pending = attaching_.extract(connection.id());  // one guess for each challenge
  if (!proof.ok() || pending.empty())
    return refuse(connection, proof.ok() ? Status{StatusCode::kInvalid, "a proof must answer a challenge"} : proof.status());
  const Attaching& attaching = pending.mapped();
  Lease* lease = nullptr;
  bool device_twice = false;
  auto session = admit(connection, attaching, proof->proof, &lease, &device_twice);
  if (!session.ok()) return refuse_attach(connection, session.status(), device_twice);
  uint32_t slot = session->ledger_slot;
  std::string id = session->session_id;
  lease->last_used = EventLoop::Clock::now();
  Fd socket = connection.detach();
  std::vector<size_t> gpus;
  for (auto& device : session->devices) gpus.push_back(lease->shares[device.partition].gpu);
  Status assigned = workers_.assign(gpus, std::move(*session), socket, lease->ledger.fd());
  drop(connection);
  if (!assigned.ok()) {
    leases_.free_slot(*lease, slot);
    log::error("lease {}: no worker for {}: {}", lease->id, attaching.request.program, assigned.message());
    control::AttachReply reply;
    reply.status = uint32_t(assigned.code());
    reply.message = assigned.message();
    (void)control::send_frame(socket.get(), Opcode::kAttach, kReply, control::encode_AttachReply(reply), {}, {});
    return;
  }
  audit_.write("session", {{"session", id}, {"lease", lease->id}, {"program", attaching.request.program}, {"peer_pid", int64_t(attaching.request.pid)}});
  log::info("session {}: {} (process {}) under lease {} over {}", id, attaching.request.program, attaching.request.pid,
            lease->id, attaching.request.transport);
}

void Daemon::join(Connection& connection, const std::string& body) {
  auto request = control::decode_JoinRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  auto worker = connection.kept() ? Status{StatusCode::kInvalid, "this connection holds a lease; open another"}
                                  : workers_.may_join(*request);
  if (!worker.ok()) {
    control::JoinReply reply{uint32_t(worker.status().code()), worker.status().message()};
    return connection.reply_and_close(Opcode::kJoin, kReply, control::encode_JoinReply(reply));
  }
  Fd socket = connection.detach();
  if (Status joined = workers_.join(**worker, request->index, socket.get()); !joined.ok())
    log::warn("session {}: cannot pass on channel {}: {}", request->session_id, request->index, joined.message());
  drop(connection);
}

void Daemon::on_session_end(const Worker& worker, const std::string& how) {
  auto lived = EventLoop::Clock::now() - worker.started;
  log::info("session {}: worker {} {} after {} calls{}{}", worker.session.session_id, worker.pid, how,
            worker.report.calls, worker.report.reason.empty() ? "" : ": ", worker.report.reason);
  log::debug("worker {} lived {} ms", worker.pid, std::chrono::duration_cast<std::chrono::milliseconds>(lived).count());
  Lease* lease = leases_.find(worker.lease_id);
  if (lease == nullptr) return;
  audit_.write("session-ended", {{"session", worker.session.session_id},
                                 {"lease", lease->id},
                                 {"calls", int64_t(worker.report.calls)},
                                 {"bytes_in", int64_t(worker.report.bytes_in)},
                                 {"bytes_out", int64_t(worker.report.bytes_out)},
                                 {"how", how}});
  leases_.free_slot(*lease, worker.session.ledger_slot);
  lease->last_used = EventLoop::Clock::now();
  if (lease->state == Lease::State::kEnding) return release_if_over(*lease);
  tell_holders(*lease, worker, how);
}

void Daemon::tell_holders(Lease& lease, const Worker& ended, const std::string& how) {
  std::set<uint64_t> holders = lease.holders, settling;
  if (lease.connection != 0) holders.insert(lease.connection);
  if (workers_.serving(lease.id) == 0) settling.swap(lease.settling);
  // A connection that turns out to be gone takes its lease along.
  auto tell = [this](uint64_t id, Opcode opcode, uint16_t flags, std::string body) {
    if (auto found = connections_.find(id); found != connections_.end()) found->second->tell(opcode, flags, std::move(body));
  };
  if (ended.lost()) {
    const control::SessionLost notice{ended.session.program, ended.session.client_pid,
                                      ended.report.reason.empty() ? how : ended.report.reason, ended.report.calls};
    for (uint64_t id : holders) tell(id, Opcode::kSessionLost, 0, control::encode_SessionLost(notice));
  }
  for (uint64_t id : settling) tell(id, Opcode::kSettle, kReply, {});
}

}  // namespace bf::daemon
