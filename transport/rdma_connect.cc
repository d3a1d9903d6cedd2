#include "transport/rdma_connect.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/random.h"
#include "proto/secrets.h"
#include "transport/rdma.h"
#include "transport/rdma_endpoint.h"

namespace bf::transport {
namespace rdma {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kBacklog = 16;

Status timed_out() { return {StatusCode::kTimeout, "the peer did not answer over RDMA in time"}; }

int milliseconds_until(Clock::time_point deadline) {
  auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
  return int(std::clamp<long long>(left, 0, 60'000));
}

Result<EventChannel> make_channel() {
  EventChannel channel(loaded_verbs().rdma_create_event_channel());
  if (!channel) return errno_status("this host's RDMA connection manager cannot be used (/dev/infiniband/rdma_cm; modprobe rdma_ucm)", errno);
  fcntl(channel->fd, F_SETFL, fcntl(channel->fd, F_GETFL) | O_NONBLOCK);
  return channel;
}

struct EventAck {
  void operator()(rdma_cm_event* event) const { loaded_verbs().rdma_ack_cm_event(event); }
};
using Event = std::unique_ptr<rdma_cm_event, EventAck>;

// The next event; kTimeout at the deadline, kUnavailable when `control` hangs up or `elsewhere` is readable.
Result<Event> next_event(const EventChannel& channel, int control, int elsewhere, Clock::time_point deadline) {
  for (;;) {
    rdma_cm_event* event;
    if (loaded_verbs().rdma_get_cm_event(channel.get(), &event) == 0) return Event(event);
    if (errno != EAGAIN && errno != EINTR) return errno_status("waiting for an RDMA connection", errno);
    pollfd entries[3] = {{channel->fd, POLLIN, 0}, {control, POLLRDHUP, 0}, {elsewhere, POLLIN, 0}};
    int ready = poll(entries, 3, milliseconds_until(deadline));
    if (ready == 0) return timed_out();
    if (ready < 0 || entries[0].revents != 0) continue;
    return Status(StatusCode::kUnavailable, entries[1].revents != 0 ? "the peer left while the RDMA connection was made"
                                                                     : "the client chose another way");
  }
}

Status refused(const rdma_cm_event& event) {
  auto refusal = read_message<Refusal>(event.param.conn.private_data, event.param.conn.private_data_len);
  if (!refusal) {
    return {StatusCode::kUnavailable, "the server refused the RDMA connection (nobody listens there, or not on that device)"};
  }
  std::string text(refusal->message.data(), strnlen(refusal->message.data(), refusal->message.size()));
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  auto code = refusal->code > 0 && refusal->code <= uint32_t(StatusCode::kInternal) ? StatusCode(refusal->code) : StatusCode::kInternal;
  return {code, "the server refused the RDMA connection: " + text};
}

// Waits for `wanted`; everything else is a failure in words.
Result<Event> expect(const EventChannel& channel, int control, rdma_cm_event_type wanted, Clock::time_point deadline) {
  auto event = next_event(channel, control, -1, deadline);
  if (!event.ok()) return event.status();
  const rdma_cm_event& got = **event;
  if (got.event == wanted) return event;
  switch (got.event) {
    case RDMA_CM_EVENT_ADDR_ERROR:
      return Status(StatusCode::kUnavailable, "no RDMA device of this host leads to the server's address (wrong subnet, or its network interface has no RDMA)");
    case RDMA_CM_EVENT_ROUTE_ERROR:
      return Status(StatusCode::kUnavailable, "the RDMA network has no route to the server (subnet manager, GID)");
    case RDMA_CM_EVENT_UNREACHABLE:
      return Status(StatusCode::kUnavailable, "the server's RDMA device does not answer (it has none on that address, or a firewall drops UDP port 4791)");
    case RDMA_CM_EVENT_REJECTED:
      return refused(got);
    default:
      return Status(StatusCode::kUnavailable, std::string("the RDMA connection failed: ") + loaded_verbs().rdma_event_str(got.event));
  }
}

struct AddrInfoFree {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

Result<std::unique_ptr<addrinfo, AddrInfoFree>> numeric_address(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (host.empty() ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  if (getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &list) != 0)
    return Status(StatusCode::kInvalid, "'" + host + "' is not a numeric address");
  return std::unique_ptr<addrinfo, AddrInfoFree>(list);
}

rdma_conn_param parameters(const void* private_data, size_t bytes) {
  rdma_conn_param parameters{};
  parameters.private_data = private_data;
  parameters.private_data_len = uint8_t(bytes);
  parameters.retry_count = 6;      // each some seconds; Soft-RoCE takes 7 for "for ever"
  parameters.rnr_retry_count = 7;  // for ever: a peer that takes nothing stalls us, as with sockets
  return parameters;
}

class Listener : public RdmaListener {
 public:
  Listener(EventChannel channel, rdma_cm_id* id, std::string session_key)
      : channel_(std::move(channel)), id_(id), session_key_(std::move(session_key)) {}
  ~Listener() override { stop(); }

  uint16_t port() const override { return ntohs(loaded_verbs().rdma_get_src_port(id_)); }
  int fd() const override { return channel_->fd; }

  Result<std::unique_ptr<Link>> accept(Fd& control, int elsewhere, milliseconds timeout) override {
    const auto deadline = Clock::now() + timeout;
    std::unique_ptr<Endpoint> endpoint;
    uint32_t taken = 0, established = 0;
    while (established != kAllChannels) {
      auto event = next_event(channel_, control.get(), elsewhere, deadline);
      if (!event.ok()) return event.status();
      rdma_cm_id* id = (*event)->id;
      if ((*event)->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
        auto request = read_message<Request>((*event)->param.conn.private_data, (*event)->param.conn.private_data_len);
        event->reset();
        BF_RETURN_IF_ERROR(take(id, request, endpoint, taken));
        continue;
      }
      int channel = endpoint ? endpoint->channel_of(id) : -1;
      if (channel < 0) continue;  // of a connection that was refused
      if ((*event)->event != RDMA_CM_EVENT_ESTABLISHED) {
        return Status(StatusCode::kUnavailable, std::string("the client's RDMA connection failed: ") +
                                                    loaded_verbs().rdma_event_str((*event)->event));
      }
      established |= 1u << channel;
    }
    stop();
    return make_link(std::move(endpoint), std::move(channel_), std::move(control));
  }

 private:
  static constexpr uint32_t kChannels = kStreams + kRdmaBulkChannels;
  static constexpr uint32_t kAllChannels = (1u << kChannels) - 1;

  void stop() {
    if (id_) loaded_verbs().rdma_destroy_id(id_);
    id_ = nullptr;
  }

  // A stranger is refused and forgotten. A failure after the proof is the session's: it has an error to tell.
  Status take(rdma_cm_id* id, const std::optional<Request>& request, std::unique_ptr<Endpoint>& endpoint,
              uint32_t& taken) {
    auto connection = std::make_unique<Connection>(id);
    Status strange = request ? judge(*request, session_key_, kChannels, taken)
                             : Status(StatusCode::kInvalid, "not a Backfield client");
    if (!strange.ok()) {
      refuse(id, strange);
      return ok_status();
    }
    Status status = join(std::move(connection), *request, endpoint);
    taken |= 1u << request->channel;
    return status;
  }

  Status join(std::unique_ptr<Connection> connection, const Request& request, std::unique_ptr<Endpoint>& endpoint) {
    rdma_cm_id* id = connection->id();
    if (!endpoint) {
      auto made = Endpoint::make(id->verbs, kRdmaBulkChannels);
      if (!made.ok()) {
        refuse(id, made.status());
        return made.status();
      }
      endpoint = std::move(*made);
      endpoint->set_peer({request.landing, request.landing_key});
    }
    Status status = endpoint->add(std::move(connection), request.channel);
    Acceptance acceptance;
    acceptance.landing = endpoint->landing().address;
    acceptance.landing_key = endpoint->landing().key;
    auto accepted = parameters(&acceptance, sizeof acceptance);
    if (status.ok() && loaded_verbs().rdma_accept(id, &accepted) != 0)
      status = errno_status("accepting an RDMA connection", errno);
    if (!status.ok()) refuse(id, status);
    return status;
  }

  static void refuse(rdma_cm_id* id, const Status& why) {
    Refusal refusal;
    refusal.code = uint32_t(why.code());
    memcpy(refusal.message.data(), why.message().data(), std::min(why.message().size(), refusal.message.size()));
    loaded_verbs().rdma_reject(id, &refusal, sizeof refusal);
  }

  EventChannel channel_;
  rdma_cm_id* id_;
  const std::string session_key_;
};

}  // namespace

std::array<char, kProofBytes> proof_of(Request request, const std::string& session_key) {
  request.proof = {};
  const std::string proof = secrets::rdma_proof(session_key, {reinterpret_cast<const char*>(&request), sizeof request});
  std::array<char, kProofBytes> bytes;
  std::copy_n(proof.begin(), kProofBytes, bytes.begin());
  return bytes;
}

Status judge(const Request& request, const std::string& session_key, uint32_t channels, uint32_t taken) {
  const auto right = proof_of(request, session_key);
  if (!equal_secrets({right.data(), right.size()}, {request.proof.data(), request.proof.size()}))
    return {StatusCode::kDenied, "it does not prove the session's key"};
  if (request.version != kVersion)
    return {StatusCode::kInvalid, "version " + std::to_string(request.version) + " is not spoken here, but " + std::to_string(kVersion)};
  if (request.channels != channels)
    return {StatusCode::kInvalid, "a session has " + std::to_string(channels) + " RDMA channels here"};
  if (request.channel >= channels || (taken >> request.channel & 1))
    return {StatusCode::kInvalid, "no free channel of that number"};
  return ok_status();
}

}  // namespace rdma

using namespace rdma;

Result<std::unique_ptr<RdmaListener>> RdmaListener::open(const std::string& host, const std::string& session_key) {
  BF_RETURN_IF_ERROR(rdma_available());
  auto channel = make_channel();
  if (!channel.ok()) return channel.status();
  // Opens all devices now: a worker may not be allowed to once it has given up its privileges.
  if (ibv_context** devices = loaded_verbs().rdma_get_devices(nullptr)) loaded_verbs().rdma_free_devices(devices);
  auto listen_on = [&](addrinfo* address, rdma_cm_id*& id) {
    if (loaded_verbs().rdma_create_id(channel->get(), &id, nullptr, RDMA_PS_TCP) != 0) return errno;
    if (loaded_verbs().rdma_bind_addr(id, address->ai_addr) == 0 && loaded_verbs().rdma_listen(id, kBacklog) == 0) return 0;
    int error = errno;
    loaded_verbs().rdma_destroy_id(id);
    return error;
  };
  // All addresses of both families, or of one where the kernel has no IPv6.
  int error = 0;
  for (const char* any : {"::", "0.0.0.0"}) {
    auto address = numeric_address(host.empty() ? any : host, 0);
    if (!address.ok()) return address.status();
    rdma_cm_id* id = nullptr;
    error = listen_on(address->get(), id);
    if (error == 0) return std::unique_ptr<RdmaListener>(new Listener(std::move(*channel), id, session_key));
    if (!host.empty()) break;
  }
  return Status(StatusCode::kUnavailable, "cannot listen for RDMA connections" + (host.empty() ? "" : " on " + host) + ": " + strerror(error));
}

Result<std::unique_ptr<Link>> connect_rdma_link(Fd& control, const std::string& host, uint16_t port,
                                                const std::string& session_key, milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  BF_RETURN_IF_ERROR(rdma_available());
  auto address = numeric_address(host, port);
  if (!address.ok()) return address.status();
  auto channel = make_channel();
  if (!channel.ok()) return channel.status();
  std::unique_ptr<Endpoint> endpoint;
  const int control_fd = control.get();
  for (uint32_t i = 0; i < kStreams + kRdmaBulkChannels; i++) {
    rdma_cm_id* id = nullptr;
    if (loaded_verbs().rdma_create_id(channel->get(), &id, nullptr, RDMA_PS_TCP) != 0) return errno_status("rdma_create_id", errno);
    auto connection = std::make_unique<Connection>(id);
    if (loaded_verbs().rdma_resolve_addr(id, nullptr, (*address)->ai_addr, std::max(1, milliseconds_until(deadline))) != 0)
      return errno_status("no RDMA device of this host leads to " + host, errno);
    auto resolved = expect(*channel, control_fd, RDMA_CM_EVENT_ADDR_RESOLVED, deadline);
    if (!resolved.ok()) return resolved.status();
    if (loaded_verbs().rdma_resolve_route(id, std::max(1, milliseconds_until(deadline))) != 0)
      return errno_status("the RDMA network has no route to " + host, errno);
    auto routed = expect(*channel, control_fd, RDMA_CM_EVENT_ROUTE_RESOLVED, deadline);
    if (!routed.ok()) return routed.status();
    if (!endpoint) {
      auto made = Endpoint::make(id->verbs, kRdmaBulkChannels);
      if (!made.ok()) return made.status();
      endpoint = std::move(*made);
    }
    if (endpoint->context() != id->verbs)
      return Status(StatusCode::kUnavailable, "the way to the server changed between RDMA devices");
    Request request;
    request.channel = uint16_t(i);
    request.channels = kStreams + kRdmaBulkChannels;
    request.landing = endpoint->landing().address;
    request.landing_key = endpoint->landing().key;
    request.proof = proof_of(request, session_key);
    BF_RETURN_IF_ERROR(endpoint->add(std::move(connection), i));
    auto asked = parameters(&request, sizeof request);
    if (loaded_verbs().rdma_connect(id, &asked) != 0) return errno_status("connecting over RDMA to " + host, errno);
    auto connected = expect(*channel, control_fd, RDMA_CM_EVENT_ESTABLISHED, deadline);
    if (!connected.ok()) return connected.status();
    auto acceptance = read_message<Acceptance>((*connected)->param.conn.private_data, (*connected)->param.conn.private_data_len);
    if (!acceptance || acceptance->version != kVersion)
      return Status(StatusCode::kInvalid, "whoever answered over RDMA is no Backfield server of this version");
    endpoint->set_peer({acceptance->landing, acceptance->landing_key});
  }
  return make_link(std::move(endpoint), std::move(*channel), std::move(control));
}

}  // namespace bf::transport
