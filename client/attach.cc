#include "client/attach.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <iterator>

#include "base/hex.h"
#include "proto/handshake.h"
#include "transport/rdma.h"
#include "transport/thread.h"

namespace bf::client {
namespace {

constexpr uint32_t kApiVersion = 13000;  // the CUDA version whose functions this shim has
constexpr uint16_t kDefaultPort = 56001;
constexpr std::chrono::milliseconds kRdmaPatience{3000};  // before a program that may use tcp does so

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

bool names_this_host(const std::string& host) {
  if (host == "localhost" || host == "::1" || host.starts_with("127.")) return true;
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && host == name;
}

Result<Fd> join(const transport::Address& address, const control::Admission& session, uint32_t index,
                control::Deadline deadline) {
  auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  auto socket = transport::dial(address, left);
  if (!socket.ok()) return socket.status();
  BF_RETURN_IF_ERROR(control::join(socket->get(), session, index, deadline));
  return std::move(*socket);
}

LinkFactory& factory_slot() {
  static auto* factory = new LinkFactory;
  return *factory;
}

// Which transport to ask for, once it is known where the server is.
struct Wish {
  std::string transport;
  std::string why;
};

Result<Wish> wish_for(const AttachSettings& settings, const Dialled& dialled) {
  if (dialled.same_host) return Wish{"shm", "the server is on this host"};
  if (settings.transport == "tcp") return Wish{"tcp", "as asked for"};
  Status rdma = transport::rdma_available();
  if (rdma.ok() && settings.encrypt)
    rdma = {StatusCode::kDenied, "RDMA traffic is not encrypted, and this server wants sessions encrypted (bfserver --encryption)"};
  if (rdma.ok()) return Wish{"rdma", settings.transport == "rdma" ? "as asked for" : "both ends have it"};
  if (settings.transport == "rdma") return rdma;
  return Wish{"tcp", rdma.message()};
}

// The numeric address that `socket` is connected to.
std::string peer_host(int socket) {
  sockaddr_storage name{};
  socklen_t bytes = sizeof name;
  char host[NI_MAXHOST] = "";
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&name), &bytes) != 0) return {};
  if (getnameinfo(reinterpret_cast<sockaddr*>(&name), bytes, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0) return {};
  return host;
}

Result<std::unique_ptr<transport::Link>> connect_rdma(Fd& control, const control::Admission& session,
                                                      std::chrono::milliseconds timeout) {
  const control::AttachReply& reply = session.reply;
  if (reply.rdma_port == 0) {
    const std::string why = reply.rdma_note.empty() ? "it is switched off there (bfserver --rdma)" : reply.rdma_note;
    return Status(StatusCode::kUnavailable, "the server offers no RDMA: " + why);
  }
  if (reply.rdma_port > UINT16_MAX) return Status(StatusCode::kInvalid, "the server's RDMA port is no port");
  const std::string host = reply.rdma_address.empty() ? peer_host(control.get()) : reply.rdma_address;
  return transport::connect_rdma_link(control, host, uint16_t(reply.rdma_port), session.session_key, timeout);
}

}  // namespace

Result<Dialled> dial_server(const AttachSettings& settings, control::Deadline deadline, transport::Address* address) {
  auto parsed = transport::parse_address(settings.server, kDefaultPort);
  if (!parsed.ok()) return parsed.status();
  *address = *parsed;
  auto left = [&] {
    return std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  };
  if (settings.transport != "tcp") {
    transport::Address local = *address;
    if (local.unix_name.empty()) local.unix_name = "backfield." + std::to_string(address->port);
    bool try_local = settings.transport == "shm" || !address->unix_name.empty() || names_this_host(address->host);
    if (try_local) {
      auto socket = transport::dial(local, left());
      if (socket.ok()) return Dialled{std::move(*socket), true};
      if (settings.transport == "shm" || !address->unix_name.empty()) return socket.status();
    }
  }
  auto socket = transport::dial(*address, left());
  if (!socket.ok()) return socket.status();
  return Dialled{std::move(*socket), false};
}

Result<AttachSettings> AttachSettings::from_environment() {
  AttachSettings settings;
  settings.server = environment("BF_SERVER");
  settings.lease = environment("BF_LEASE");
  settings.transport = environment("BF_TRANSPORT");
  settings.encrypt = environment("BF_ENCRYPT") == "1";
  auto secret = from_hex(environment("BF_LEASE_SECRET"));
  if (!secret)
    return Status(StatusCode::kInvalid, "BF_LEASE_SECRET is not a row of hexadecimal digits; start the program with bfrun");
  settings.secret = std::move(*secret);
  if (settings.transport.empty()) settings.transport = "auto";
  for (const char* known : {"auto", "tcp", "shm", "rdma"})
    if (settings.transport == known) return settings;
  return Status(StatusCode::kInvalid, "BF_TRANSPORT is '" + settings.transport + "'; it must be auto, tcp, shm or rdma");
}

Result<Attached> attach(const AttachSettings& settings, bool* device_twice) {
  auto deadline = control::deadline_in(std::chrono::milliseconds(limits::kHandshakeTimeoutMs));
  transport::Address address;
  auto dialled = dial_server(settings, deadline, &address);
  if (!dialled.ok()) return dialled.status();
  auto wish = wish_for(settings, *dialled);
  if (!wish.ok()) return wish.status();
  control::AttachRequest request;
  request.protocol = control::kProtocolVersion;
  request.lease_id = settings.lease;
  request.pid = uint32_t(getpid());
  request.program = program_invocation_short_name;
  request.transport = wish->transport;
  request.api_version = kApiVersion;
  request.encrypt = settings.encrypt && !dialled->same_host;
  request.choose_devices = settings.cuda.visible_devices.has_value();
  request.visible_devices = settings.cuda.visible_devices.value_or("");
  request.pci_order = settings.cuda.pci_order;
  int socket = dialled->socket.get();
  auto session = control::attach(socket, std::move(request), settings.secret, deadline, device_twice);
  if (!session.ok()) return session.status();
  deadline = control::deadline_in(std::chrono::milliseconds(limits::kHandshakeTimeoutMs));

  Attached attached;
  attached.sockets.push_back(socket);
  if (wish->transport == "shm") {
    auto link = transport::accept_shm_link(std::move(dialled->socket), std::chrono::milliseconds(limits::kHandshakeTimeoutMs));
    if (!link.ok()) return link.status();
    attached.link = std::move(*link);
    attached.choice = "shm (" + wish->why + ")";
    return attached;
  }
  if (wish->transport == "rdma") {
    const bool must = settings.transport == "rdma";
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    auto link = connect_rdma(dialled->socket, *session, must ? left : std::min(left, kRdmaPatience));
    if (link.ok()) {
      attached.link = std::move(*link);
      for (int descriptor : attached.link->descriptors()) attached.sockets.push_back(descriptor);
      attached.choice = "rdma (" + wish->why + ")";
      return attached;
    }
    if (must) return link.status();
    wish->why = "not rdma: " + link.status().message();
  }
  const uint32_t channels = session->reply.channels;
  if (channels < 2 || channels > limits::kTcpChannels) {
    return Status(StatusCode::kInvalid, "the server asks for " + std::to_string(channels) + " channels");
  }
  std::vector<Fd> joined(channels);
  BF_RETURN_IF_ERROR(transport::run_together(channels, [&](size_t index) -> Status {
    auto channel = join(address, *session, uint32_t(index), deadline);
    if (channel.ok()) joined[index] = std::move(*channel);
    return channel.status();
  }));
  for (const Fd& channel : joined) attached.sockets.push_back(channel.get());
  Fd side = std::move(joined.front());
  std::vector<Fd> bulk(std::make_move_iterator(joined.begin() + 1), std::make_move_iterator(joined.end()));
  if (settings.encrypt) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    auto link = transport::make_tls_link(std::move(dialled->socket), std::move(side), std::move(bulk), session->session_key,
                                         transport::End::kClient, left);
    if (!link.ok()) return link.status();
    attached.link = std::move(*link);
    attached.choice = "tcp with TLS (" + wish->why + ")";
    return attached;
  }
  attached.link = transport::make_tcp_link(std::move(dialled->socket), std::move(side), std::move(bulk), transport::End::kClient);
  attached.choice = "tcp (" + wish->why + ")";
  return attached;
}

void set_link_factory(LinkFactory factory) { factory_slot() = std::move(factory); }
const LinkFactory& link_factory() { return factory_slot(); }

}  // namespace bf::client
