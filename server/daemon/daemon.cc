#include "server/daemon/daemon.h"

#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "server/daemon/health.h"
#include "server/daemon/log.h"
#include "server/daemon/random.h"
#include "transport/transport.h"

namespace bf::daemon {
namespace {

constexpr int kAcceptsPerEvent = 64;
constexpr auto kAcceptPause = std::chrono::milliseconds(200);
constexpr auto kSweepPeriod = std::chrono::milliseconds(500);
constexpr size_t kSpareDescriptors = 1024;  // for leases, workers and sessions, beside unattached connections

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return name;
}

bool is_loopback(int socket) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &bytes) < 0) return false;
  if (address.ss_family == AF_INET)
    return (ntohl(reinterpret_cast<sockaddr_in*>(&address)->sin_addr.s_addr) >> 24) == 127;
  return address.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr);
}

uint16_t bound_port(int socket) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &bytes);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

// The soft limit is meant for programs that use select(2); a daemon takes what it may.
size_t raise_file_limit() {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  ::getrlimit(RLIMIT_NOFILE, &files);
  return files.rlim_cur;
}

}  // namespace

Daemon::Daemon(EventLoop& loop, Options options, WorkerSetup setup, Inventory inventory, Fd signals,
               std::function<Parsed()> reload)
    : loop_(loop),
      options_(std::move(options)),
      setup_(std::move(setup)),
      inventory_(std::move(inventory)),
      signals_(std::move(signals)),
      reload_(std::move(reload)),
      leases_(inventory_.gpus),
      workers_(loop, setup_, inventory_.gpus, *this),
      monitor_(loop, setup_, inventory_.gpus) {
  size_t files = raise_file_limit();
  size_t spare = std::min(kSpareDescriptors, files / 2);
  max_connections_ = std::min<size_t>(limits::kIdleConnections, files - spare);
}

Daemon::~Daemon() {
  close_listeners();
  loop_.forget(signals_.get());
}

// --- life ------------------------------------------------------------------------------------------------------------

Status Daemon::start() {
  if (options_.dev && options_.insecure)
    return {StatusCode::kInvalid, "--dev and --insecure contradict each other: --dev never leaves this machine"};
  if (options_.listen.empty()) options_.listen.push_back("127.0.0.1:" + std::to_string(kDefaultPort));
  for (auto& address : options_.listen) BF_RETURN_IF_ERROR(open_listener(address));
  BF_RETURN_IF_ERROR(loop_.watch(signals_.get(), EPOLLIN, [this](uint32_t) { on_signal(); }));
  sweep();
  // After the readiness line: forking workers must not delay it.
  loop_.after({}, [this] {
    workers_.keep_warm(options_.warm_workers);
    monitor_.start();
  });
  return {};
}

void Daemon::run() { loop_.run(); }

std::string Daemon::summary() const {
  std::string where;
  for (auto& address : addresses_) where += (where.empty() ? "" : ", ") + address;
  size_t count = inventory_.gpus.size();
  return fmt::format("{} GPU{}{}, listening on {}", count, count == 1 ? "" : "s",
                     inventory_.software ? " (software)" : "", where);
}

Status Daemon::open_listener(const std::string& text) {
  auto address = transport::parse_address(text, kDefaultPort);
  if (!address.ok()) return address.status();
  if (!address->unix_name.empty())
    return {StatusCode::kInvalid, "--listen takes HOST:PORT; the Unix socket comes with it by itself"};
  auto socket = transport::listen(*address, SOMAXCONN);
  if (!socket.ok()) return socket.status();
  if (!is_loopback(socket->get())) {
    if (options_.dev) return {StatusCode::kInvalid, text + " is not a loopback address, and --dev allows no other"};
    if (!options_.insecure)
      return {StatusCode::kInvalid,
              text +
                  " can be reached from other machines, and nobody would be authenticated: listen "
                  "on 127.0.0.1, or say --insecure if this network is trusted"};
    log::warn("{} is open to everybody who can reach it", text);
  }
  address->port = bound_port(socket->get());
  transport::Address local;
  local.unix_name = "backfield." + std::to_string(address->port);
  auto local_socket = transport::listen(local, SOMAXCONN);
  if (!local_socket.ok()) return local_socket.status();
  addresses_.push_back(address->to_string());
  BF_RETURN_IF_ERROR(add_listener(std::move(*socket), false));
  return add_listener(std::move(*local_socket), true);
}

Status Daemon::add_listener(Fd socket, bool local) {
  auto listener = std::make_unique<Listener>(std::move(socket), local);
  Listener* raw = listener.get();
  listeners_.push_back(std::move(listener));
  return loop_.watch(raw->socket.get(), EPOLLIN, [this, raw](uint32_t) { accept_some(*raw); });
}

void Daemon::close_listeners() {
  for (auto& listener : listeners_) loop_.forget(listener->socket.get());
  listeners_.clear();
}

void Daemon::on_signal() {
  signalfd_siginfo info{};
  if (::read(signals_.get(), &info, sizeof info) != sizeof info) return;
  switch (info.ssi_signo) {
    case SIGCHLD:
      workers_.reap();
      monitor_.reap();
      return stop_if_drained();
    case SIGHUP:
      return reload();
    case SIGTERM:
    case SIGINT:
      return draining_ ? end_now(true) : begin_drain();
  }
}

void Daemon::begin_drain() {
  draining_ = true;
  size_t sessions = workers_.serving();
  log::info("ending{}", sessions == 0 ? ""
                                      : fmt::format(": {} sessions may go on for {} s; a second signal ends them now",
                                                    sessions, options_.drain_seconds));
  close_listeners();
  workers_.end_idle();
  loop_.after(std::chrono::seconds(options_.drain_seconds), [this] { end_now(false); });
  stop_if_drained();
}

void Daemon::end_now(bool at_once) {
  workers_.end_all(at_once);
  stop_if_drained();
}

void Daemon::stop_if_drained() {
  if (draining_ && workers_.size() == 0) loop_.stop();
}

void Daemon::reload() {
  if (!options_.log_file.empty()) log::redirect(options_.log_file);
  Parsed parsed = reload_();
  if (!parsed.print.empty()) return log::error("the configuration stays as it was: {}", parsed.print);
  Options& fresh = parsed.options;
  if (fresh.listen.empty()) fresh.listen.push_back("127.0.0.1:" + std::to_string(kDefaultPort));
  auto keep = [](const char* name, auto& now, const auto& wanted) {
    if (now != wanted) log::warn("{} changes only when bfserver is started again", name);
  };
  keep("listen", options_.listen, fresh.listen);
  keep("software-gpus", options_.software_gpus, fresh.software_gpus);
  keep("software-memory", options_.software_memory_mib, fresh.software_memory_mib);
  keep("worker", options_.worker, fresh.worker);
  keep("worker-user", options_.worker_user, fresh.worker_user);
  keep("log-file", options_.log_file, fresh.log_file);
  options_.log_level = fresh.log_level;
  options_.warm_workers = fresh.warm_workers;
  options_.drain_seconds = fresh.drain_seconds;
  options_.server_name = fresh.server_name;
  log::set_level(options_.level());
  if (!draining_) workers_.keep_warm(options_.warm_workers);
  log::info("configuration read again");
}

// --- connections -----------------------------------------------------------------------------------------------------

void Daemon::accept_some(Listener& listener) {
  for (int i = 0; i < kAcceptsPerEvent; i++) {
    Fd socket(::accept4(listener.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket && (errno == EMFILE || errno == ENFILE) && !evict_oldest()) return pause(listener);
    if (!socket) return;
    if (!welcome(socket.get(), listener.local)) continue;
    if (connections_.size() >= max_connections_ && unattached() >= max_connections_) evict_oldest();
    uint64_t id = next_connection_++;
    Connection::Owner& owner = *this;
    auto connection = std::make_unique<Connection>(loop_, std::move(socket), id, listener.local, owner);
    if (connection->start().ok()) connections_[id] = std::move(connection);
  }
}

// With --dev, the Unix socket is for the user who started bfserver (and root).
bool Daemon::welcome(int socket, bool local) const {
  if (!local || !options_.dev) return true;
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0) return false;
  return peer.uid == 0 || peer.uid == ::geteuid();
}

// Makes room for a newcomer: honest clients speak at once, so the longest silent one goes.
bool Daemon::evict_oldest() {
  Connection* oldest = nullptr;
  for (auto& [id, connection] : connections_)
    if (!connection->kept() && (oldest == nullptr || connection->last_progress() < oldest->last_progress()))
      oldest = connection.get();
  if (oldest == nullptr) return false;
  log::debug("{} gives way to a newer connection", oldest->peer());
  connections_.erase(oldest->id());
  return true;
}

size_t Daemon::unattached() const {
  return size_t(
      std::count_if(connections_.begin(), connections_.end(), [](auto& entry) { return !entry.second->kept(); }));
}

// No descriptor is left and none can be freed: a level-triggered listener would make the loop spin.
void Daemon::pause(Listener& listener) {
  log::warn("no file descriptor is left for new connections; raise LimitNOFILE");
  loop_.change(listener.socket.get(), 0);
  loop_.after(kAcceptPause, [this, paused = &listener] {
    for (auto& open : listeners_)
      if (open.get() == paused) loop_.change(paused->socket.get(), EPOLLIN);
  });
}

void Daemon::sweep() {
  auto now = EventLoop::Clock::now();
  for (auto it = connections_.begin(); it != connections_.end();) {
    Connection& connection = *(it++)->second;
    if (connection.overdue(now)) on_lost(connection, {StatusCode::kTimeout, "it said nothing for too long"});
  }
  loop_.after(kSweepPeriod, [this] { sweep(); });
}

void Daemon::on_lost(Connection& connection, const Status& why) {
  log::debug("{}: {}", connection.peer(), why.message());
  if (connection.kept())
    if (Lease* lease = leases_.find_by_connection(connection.id())) end_lease(*lease);
  drop(connection);
}

// Not at once: one of its functions may be on the stack.
void Daemon::drop(Connection& connection) {
  loop_.defer([this, id = connection.id()] { connections_.erase(id); });
}

// --- requests --------------------------------------------------------------------------------------------------------

void Daemon::on_frame(Connection& connection, control::Frame frame) {
  switch (frame.opcode) {
    case Opcode::kPing:
      return connection.reply(Opcode::kPing, {}, std::move(frame.payload));
    case Opcode::kBandwidth: {
      auto request = control::decode_BandwidthRequest(control::as_bytes(frame.body));
      if (!request.ok()) return refuse(connection, request.status());
      return connection.reply_zeroes(Opcode::kBandwidth, request->send_bytes);
    }
    case Opcode::kList:
      return list(connection, frame.body);
    case Opcode::kReading:
      return read(connection, frame.body);
    case Opcode::kHealth:
      return connection.reply(Opcode::kHealth, control::encode_HealthReply({check_health(inventory_, setup_, monitor_)}));
    case Opcode::kLease:
      return lease(connection, frame.body);
    case Opcode::kAttach:
      return attach(connection, frame.body);
    case Opcode::kJoin:
      return join(connection, frame.body);
    default:
      return refuse(connection,
                    {StatusCode::kInvalid, "the server does not know this request; are versions different?"});
  }
}

void Daemon::refuse(Connection& connection, const Status& why) {
  log::debug("{}: refused: {}", connection.peer(), why.message());
  connection.reply_and_close(Opcode::kError, 0, control::encode_ErrorReply({uint32_t(why.code()), why.message()}));
}

void Daemon::list(Connection& connection, const std::string& body) {
  auto request = control::decode_ListRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  auto answer = [this](Connection& asker) { asker.reply(Opcode::kList, control::encode_ListReply(describe())); };
  request->sampled ? answer_fresh(connection, answer) : answer(connection);
}

control::ListReply Daemon::describe() const {
  control::ListReply reply;
  reply.server_name = options_.server_name.empty() ? host_name() : options_.server_name;
  reply.version = BF_VERSION;
  reply.driver_version = inventory_.driver_version;
  reply.draining = draining_;
  reply.sessions = uint32_t(workers_.serving());
  reply.software = inventory_.software;
  reply.transports = {"tcp", "shm"};
  if (options_.rdma != "off") reply.transports.push_back("rdma");
  for (auto& gpu : inventory_.gpus) {
    auto& listed = reply.gpus.emplace_back(gpu.facts);
    listed.memory_bytes = gpu.capacity_bytes;
    listed.free_bytes = gpu.free_bytes();
    listed.leases = gpu.leases;
  }
  for (auto& [id, lease] : leases_.all())
    for (size_t i = 0; i < lease.shares.size(); i++) reply.gpus[lease.shares[i].gpu].used_bytes += lease.ledger.used(i);
  return reply;
}

// The connection may be gone, or have said something else, when the sample is there.
void Daemon::answer_fresh(Connection& connection, std::function<void(Connection&)> answer) {
  if (monitor_.fresh()) return answer(connection);
  connection.hold();
  bool accepted = monitor_.when_fresh([this, id = connection.id(), answer = std::move(answer)] {
    auto found = connections_.find(id);
    if (found == connections_.end()) return;
    found->second->release();
    answer(*found->second);
  });
  if (!accepted) refuse(connection, {StatusCode::kExhausted, "too many clients wait for a reading"});
}

void Daemon::read(Connection& connection, const std::string& body) {
  auto request = control::decode_ReadingRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  auto answer = [this, asked = *request](Connection& asker) {
    auto lease = leases_.check(asked.lease_id, asked.secret);
    control::ReadingReply reply;
    if (!lease.ok() || asked.device >= (*lease)->shares.size()) {
      Status why = lease.ok() ? Status{StatusCode::kInvalid, "the lease has no such device"} : lease.status();
      reply.status = uint32_t(why.code());
      reply.message = why.message();
    } else {
      reply = describe(**lease, asked);
    }
    asker.reply(Opcode::kReading, control::encode_ReadingReply(reply));
  };
  request->sampled ? answer_fresh(connection, answer) : answer(connection);
}

control::ReadingReply Daemon::describe(Lease& lease, const control::ReadingRequest& request) const {
  const Share& share = lease.shares[request.device];
  const control::Gpu& facts = inventory_.gpus[share.gpu].facts;
  const Monitor::Reading& reading = monitor_.reading(share.gpu);
  control::ReadingReply reply;
  reply.devices = uint32_t(lease.shares.size());
  reply.gpu_index = reading.index;
  reply.uuid = facts.uuid;
  reply.name = facts.name;
  reply.pci_bus_id = facts.pci_bus_id;
  reply.memory_bytes = share.bytes;
  reply.used_bytes = lease.ledger.used(request.device);
  for (auto& worker : workers_.workers()) {
    if (!worker.serving || worker.lease_id != lease.id) continue;
    uint64_t used = lease.ledger.charged(worker.session.ledger_slot, request.device);
    if (used > 0 && reply.processes.size() < control::kProcessesPerReading)
      reply.processes.push_back({worker.session.client_pid, worker.session.program, used});
  }
  reply.facts_version = reading.facts_version;
  reply.sample_version = reading.sample_version;
  reply.sample_unix_us = reading.sample_unix_us;
  if (request.facts_seen != reading.facts_version) {
    reply.facts = reading.facts;
    reply.system = monitor_.system();
  }
  if (request.sample_seen != reading.sample_version || request.facts_seen != reading.facts_version)
    reply.sample = reading.sample;
  return reply;
}

void Daemon::lease(Connection& connection, const std::string& body) {
  auto request = control::decode_LeaseRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  if (connection.kept())
    return refuse(connection, {StatusCode::kInvalid, "this connection already holds a lease; open another"});
  auto granted = draining_ ? Result<Lease*>(Status{StatusCode::kExhausted, "the server is being stopped"})
                           : leases_.grant(*request, connection.id());
  if (!granted.ok()) {
    control::LeaseReply reply;
    reply.status = uint32_t(granted.status().code());
    reply.message = granted.status().message();
    return connection.reply(Opcode::kLease, control::encode_LeaseReply(reply));
  }
  Lease& lease = **granted;
  connection.keep();
  if (lease.shares.size() == 1) workers_.set_aside(lease.shares[0].gpu, lease.id);
  for (auto& share : lease.shares) workers_.make_room(share.gpu);
  for (auto& share : lease.shares)
    log::info("lease {}: {} MiB of GPU {} for {} ({}, process {})", lease.id, share.bytes >> 20,
              inventory_.gpus[share.gpu].facts.index, request->program, request->client_name, request->client_pid);
  connection.reply(Opcode::kLease, control::encode_LeaseReply(leases_.describe(lease)));
}

// Everything that can be refused is refused here, before anything is changed.
Result<control::Assign> Daemon::admit(const Connection& connection, const control::AttachRequest& request,
                                      Lease** lease) {
  if (request.protocol != control::kProtocolVersion)
    return Status{
        StatusCode::kInvalid,
        fmt::format("the program's Backfield speaks protocol {}, this server {}: install the same version on both",
                    request.protocol, control::kProtocolVersion)};
  auto checked = leases_.check(request.lease_id, request.secret);
  if (!checked.ok()) return checked.status();
  const bool rdma = request.transport == "rdma" && !connection.local();
  if (!rdma && request.transport != (connection.local() ? "shm" : "tcp"))
    return Status{StatusCode::kInvalid, "the transport '" + request.transport + "' does not work over this connection"};
  auto slot = leases_.take_slot(**checked);
  if (!slot.ok()) return slot.status();
  *lease = *checked;
  control::Assign session;
  session.session_id = random_id();
  session.channel_secret = random_bytes(control::kSecretBytes);
  session.lease_id = (*lease)->id;
  for (auto& share : (*lease)->shares) {
    auto& facts = inventory_.gpus[share.gpu].facts;
    session.devices.push_back({facts.index, share.bytes, facts.context_bytes, facts.uuid});
  }
  session.ledger_slot = *slot;
  session.transport = rdma && options_.rdma == "off" ? "tcp" : request.transport;  // which an rdma client may use, too
  if (rdma && options_.rdma != "on") session.rdma_address = options_.rdma;
  session.channels = connection.local() ? 0 : 1 + limits::kBulkChannels;
  session.client_pid = request.pid;
  session.program = request.program;
  return session;
}

void Daemon::attach(Connection& connection, const std::string& body) {
  auto request = control::decode_AttachRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  auto refuse_attach = [&](const Status& why) {
    log::info("{}: cannot attach: {}", connection.peer(), why.message());
    control::AttachReply reply;
    reply.status = uint32_t(why.code());
    reply.message = why.message();
    connection.reply_and_close(Opcode::kAttach, kReply, control::encode_AttachReply(reply));
  };
  if (connection.kept()) return refuse_attach({StatusCode::kInvalid, "this connection holds a lease; open another"});
  Lease* lease = nullptr;
  auto session = admit(connection, *request, &lease);
  if (!session.ok()) return refuse_attach(session.status());
  uint32_t slot = session->ledger_slot;
  std::string id = session->session_id;
  Fd socket = connection.detach();
  Status assigned = workers_.assign(lease->gpus(), std::move(*session), socket, lease->ledger.fd());
  drop(connection);
  if (!assigned.ok()) {
    leases_.free_slot(*lease, slot);
    log::error("lease {}: no worker for {}: {}", lease->id, request->program, assigned.message());
    control::AttachReply reply;
    reply.status = uint32_t(assigned.code());
    reply.message = assigned.message();
    (void)control::send_frame(socket.get(), Opcode::kAttach, kReply, control::encode_AttachReply(reply), {}, {});
    return;
  }
  log::info("session {}: {} (process {}) under lease {} over {}", id, request->program, request->pid, lease->id,
            request->transport);
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

// --- ends ------------------------------------------------------------------------------------------------------------

void Daemon::end_lease(Lease& lease) {
  lease.ending = true;
  workers_.end_lease(lease.id);
  if (workers_.serving(lease.id) > 0) return;  // on_session_end() of the last one goes on
  log::info("lease {} ended", lease.id);
  leases_.release(lease);
  if (!draining_) workers_.keep_warm(options_.warm_workers);  // those that gave way may come back
}

void Daemon::on_session_end(const Worker& worker, const std::string& how) {
  auto lived = EventLoop::Clock::now() - worker.started;
  log::info("session {}: worker {} {} after {} calls{}{}", worker.session.session_id, worker.pid, how,
            worker.report.calls, worker.report.reason.empty() ? "" : ": ", worker.report.reason);
  log::debug("worker {} lived {} ms", worker.pid, std::chrono::duration_cast<std::chrono::milliseconds>(lived).count());
  Lease* lease = leases_.find(worker.lease_id);
  if (lease == nullptr) return;
  leases_.free_slot(*lease, worker.session.ledger_slot);
  if (lease->ending) end_lease(*lease);
}

uint64_t Daemon::spare_bytes(size_t gpu) const { return inventory_.gpus[gpu].free_bytes(); }

}  // namespace bf::daemon
