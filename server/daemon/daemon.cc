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
#include <ctime>

#include "base/hex.h"
#include "base/random.h"
#include "server/daemon/health.h"
#include "server/daemon/log.h"
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

Daemon::Daemon(EventLoop& loop, Options options, WorkerSetup setup, Inventory inventory, std::unique_ptr<Store> store,
               Audit audit, Fd signals, std::function<Parsed()> reload)
    : loop_(loop),
      options_(std::move(options)),
      setup_(std::move(setup)),
      inventory_(std::move(inventory)),
      store_(std::move(store)),
      audit_(std::move(audit)),
      state_(std::make_unique<LocalState>(*store_, options_.state_dir)),
      signals_(std::move(signals)),
      reload_(std::move(reload)),
      leases_(inventory_.gpus),
      workers_(loop, setup_, inventory_.gpus, *this),
      monitor_(loop, setup_, inventory_.gpus),
      watch_(loop, monitor_, inventory_.gpus,
             [this](const std::string& who, const std::string& why) {
               log::at(why.empty() ? LogLevel::kInfo : LogLevel::kError, "{} is {}", who, why.empty() ? "offered again" : "not offered any more: " + why);
               audit_.write(why.empty() ? "well" : "ill", {{"what", who}, {"why", why}});
             }),
      server_id_(random_id()) {
  size_t files = raise_file_limit();
  size_t spare = std::min(kSpareDescriptors, files / 2);
  max_connections_ = std::min<size_t>(limits::kIdleConnections, files - spare);
}

Daemon::~Daemon() {
  close_listeners();
  loop_.cancel(members_timer_);
  loop_.forget(signals_.get());
}

// --- life ------------------------------------------------------------------------------------------------------------

Status Daemon::start() {
  BF_RETURN_IF_ERROR(load_certificates());
  if (options_.listen.empty()) options_.listen.push_back("127.0.0.1:" + std::to_string(kDefaultPort));
  if (const char* folder = ::getenv("CACHE_DIRECTORY"); folder && options_.image_cache.empty())
    options_.image_cache = std::string(folder) + "/images";  // systemd makes it
  if (!options_.image_cache.empty()) {
    auto images = ImageCache::open(options_.image_cache, options_.image_cache_mib << 20);
    if (!images.ok()) return images.status();
    images_ = std::move(*images);
    workers_.use_images(images_.get());
  }
  for (auto& address : options_.listen) BF_RETURN_IF_ERROR(open_listener(address));
  BF_RETURN_IF_ERROR(loop_.watch(signals_.get(), EPOLLIN, [this](uint32_t) { on_signal(); }));
  auto cluster = options_.dev ? std::optional<ClusterConfig>() : load_cluster(options_.state_dir);
  if (!cluster.ok()) return cluster.status();
  if (*cluster) BF_RETURN_IF_ERROR(start_managed(**cluster));
  audit_.write("started", {{"version", std::string(BF_VERSION)}, {"gpus", int64_t(inventory_.gpus.size())}});
  sweep();
  // After the readiness line: forking workers must not delay it.
  loop_.after({}, [this] {
    workers_.keep_warm(options_.warm_workers);
    monitor_.start();
    start_watch();
  });
  return {};
}

Status Daemon::load_certificates() {
  if (options_.dev) return {};
  bool own = !options_.tls_certificate.empty();
  if (own != !options_.tls_key.empty() || own != !options_.tls_ca.empty())
    return {StatusCode::kInvalid, "--tls-certificate, --tls-key and --tls-ca belong together: give all three or none"};
  auto loaded = own ? load_credentials(options_.tls_certificate, options_.tls_key, options_.tls_ca)
                    : make_credentials(options_.state_dir, options_.server_name.empty() ? host_name() : options_.server_name);
  if (!loaded.ok()) return loaded.status();
  credentials_ = std::move(*loaded);
  return {};
}

void Daemon::start_watch() {
  std::string log = options_.kernel_log.empty() && !inventory_.software ? "/dev/kmsg" : options_.kernel_log;
  watch_.start(log, [this] { return read_vitals(options_.dev ? "" : options_.state_dir, credentials_.expires); });
  if (!log.empty() && !watch_.reads_kernel_log()) log::info("{} cannot be read: the driver's Xid errors are not watched", log);
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
  if (options_.dev && !is_loopback(socket->get()))
    return {StatusCode::kInvalid, text + " is not a loopback address, and --dev allows no other"};
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
  auto listener = std::make_unique<Listener>(Listener{std::move(socket), local});
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
      if (etcd_member_) etcd_member_->reap();
      return stop_if_drained();
    case SIGHUP:
      return reload();
    case SIGTERM:
    case SIGINT:
      return stopping_ ? end_now(true) : begin_drain();
  }
}

void Daemon::begin_drain() {
  draining_ = stopping_ = true;
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
  if (stopping_ && workers_.size() == 0) loop_.stop();
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
  keep("state-dir", options_.state_dir, fresh.state_dir);
  keep("worker-user", options_.worker_user, fresh.worker_user);
  keep("log-file", options_.log_file, fresh.log_file);
  options_.log_level = fresh.log_level;
  options_.warm_workers = fresh.warm_workers;
  options_.drain_seconds = fresh.drain_seconds;
  options_.server_name = fresh.server_name;
  options_.encryption = fresh.encryption;
  options_.idle_timeout_s = fresh.idle_timeout_s;
  options_.auto_release_s = fresh.auto_release_s;
  log::set_level(options_.level());
  if (Status loaded = load_certificates(); !loaded.ok()) log::error("the certificates stay as they were: {}", loaded.message());
  if (!stopping_) workers_.keep_warm(options_.warm_workers);
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
    auto connection = std::make_unique<Connection>(loop_, std::move(socket), id, listener.local, credentials_.certificate, owner);
    connection->identity() = identify(*connection);
    if (connection->start().ok()) connections_[id] = std::move(connection);
  }
}

// With --dev, the Unix socket is for the user who started bfserver (and root).
bool Daemon::welcome(int socket, bool local) const {
  if (!local || !options_.dev) return true;
  auto uid = peer_uid(socket);
  return uid && (*uid == 0 || *uid == ::geteuid());
}

// With --dev everybody who gets this far is the same client and may do everything. Else the Unix socket tells who is at
// the other end: whoever could replace bfserver anyway may manage it. All others have to show a token.
Identity Daemon::identify(const Connection& connection) const {
  Identity who;
  who.admin = options_.dev ||
              (connection.local() && (connection.peer_uid() == 0 || connection.peer_uid() == ::geteuid()));
  who.known = who.admin;
  return who;
}

void Daemon::authenticate(Connection& connection, const std::string& body) {
  auto request = control::decode_AuthRequest(control::as_bytes(body));
  if (!request.ok()) return refuse(connection, request.status());
  const std::string address = connection.peer().substr(0, connection.peer().rfind(':'));
  auto now = EventLoop::Clock::now();
  control::AuthReply reply;
  if (auto pause = guesses_.pause(address, now)) {
    reply.status = uint32_t(StatusCode::kDenied);
    reply.message = fmt::format("authentication required: too many wrong tokens came from this address; try again in {} s", pause->count());
  } else {
    reply = check_token(*store_, *request, ::time(nullptr), &connection.identity());
    if (reply.status != 0) {
      guesses_.failed(address, now);
      log::warn("{}: {}", connection.peer(), reply.message);
      audit_.write("authentication-failed", {{"peer", connection.peer()}, {"token", request->token_id}, {"why", reply.message}});
    }
  }
  if (reply.status != 0) return connection.reply_and_close(Opcode::kAuthenticate, kReply, control::encode_AuthReply(reply));
  connection.reply(Opcode::kAuthenticate, control::encode_AuthReply(reply));
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
  check_leases();
  loop_.after(kSweepPeriod, [this] { sweep(); });
}

void Daemon::on_lost(Connection& connection, const Status& why) {
  log::debug("{}: {}", connection.peer(), why.message());
  if (Lease* lease = leases_.find_by_connection(connection.id())) on_holder_lost(connection, *lease);
  waiting_.forget(connection.id());
  attaching_.erase(connection.id());
  drop(connection);
}

// Not at once: one of its functions may be on the stack.
void Daemon::drop(Connection& connection) {
  loop_.defer([this, id = connection.id()] { connections_.erase(id); });
}

// --- requests --------------------------------------------------------------------------------------------------------

void Daemon::on_frame(Connection& connection, control::Frame frame) {
  bool proves_itself = frame.opcode == Opcode::kAttach || frame.opcode == Opcode::kProof || frame.opcode == Opcode::kJoin ||
                       frame.opcode == Opcode::kReading;
  if (proves_itself && connection.encrypted())
    return refuse(connection, {StatusCode::kInvalid, "a session begins on a connection of its own"});
  if (frame.opcode == Opcode::kAuthenticate && connection.encrypted()) return authenticate(connection, frame.body);
  if (!connection.identity().known && !proves_itself)
    return refuse(connection, {StatusCode::kDenied, "authentication required"});
  // Tokens end while connections live.
  if (const Identity& who = connection.identity(); connection.encrypted()) {
    const Token* token = store_->token(who.token_id);
    if (token == nullptr || token->disabled || (token->expires != 0 && ::time(nullptr) >= token->expires))
      return refuse(connection, {StatusCode::kDenied, "authentication required: the token has ended"});
  }
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
      return connection.reply(Opcode::kHealth, control::encode_HealthReply({check_health(inventory_, setup_, monitor_, watch_, credentials_.expires)}));
    case Opcode::kReserve:
      return reserve(connection, frame.body);
    case Opcode::kLease:
      return commit(connection, frame.body);
    case Opcode::kHold:
      return hold(connection, frame.body);
    case Opcode::kSettle:
      return settle(connection);
    case Opcode::kManage:
      return manage(connection, frame);
    case Opcode::kAttach:
      return attach(connection, std::move(frame.body));
    case Opcode::kProof:
      return prove(connection, frame.body);
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
  reply.draining = draining_ || !watch_.server_note().empty();
  reply.sessions = uint32_t(workers_.serving());
  reply.software = inventory_.software;
  reply.transports = {"tcp", "shm"};
  // Its traffic is not encrypted, so it is for pools that allow plain sessions.
  if (inventory_.rdma && options_.rdma != "off" && options_.encryption == "never") reply.transports.push_back("rdma");
  reply.driver = inventory_.driver;
  reply.server_id = server_id_;
  if (managed_ != nullptr) reply.pool = to_hex(credentials_.pin).substr(0, 16);
  for (auto& gpu : inventory_.gpus) {
    auto& listed = reply.gpus.emplace_back(gpu.facts);
    listed.memory_bytes = gpu.capacity_bytes;
    listed.free_bytes = gpu.free_bytes();
    listed.leases = gpu.leases;
    if (listed.healthy) listed.health_note = watch_.server_note();
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
    auto lease = leases_.check_reading(asked.lease_id, asked.proof);
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

uint64_t Daemon::spare_bytes(size_t gpu) const { return inventory_.gpus[gpu].free_bytes(); }

}  // namespace bf::daemon
