#include "client/attach.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/hex.h"
#include "proto/handshake.h"

namespace bf::client {
namespace {

constexpr uint32_t kApiVersion = 13000;  // the CUDA version whose functions this shim has
constexpr uint16_t kDefaultPort = 56001;

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
  if (settings.transport != "auto" && settings.transport != "tcp" && settings.transport != "shm") {
    return Status(StatusCode::kInvalid, "BF_TRANSPORT is '" + settings.transport + "'; it must be auto, tcp or shm");
  }
  return settings;
}

Result<Attached> attach(const AttachSettings& settings, bool* device_twice) {
  auto deadline = control::deadline_in(std::chrono::milliseconds(limits::kHandshakeTimeoutMs));
  transport::Address address;
  auto dialled = dial_server(settings, deadline, &address);
  if (!dialled.ok()) return dialled.status();
  control::AttachRequest request;
  request.protocol = control::kProtocolVersion;
  request.lease_id = settings.lease;
  request.pid = uint32_t(getpid());
  request.program = program_invocation_short_name;
  request.transport = dialled->same_host ? "shm" : "tcp";
  request.api_version = kApiVersion;
  request.encrypt = settings.encrypt && !dialled->same_host;
  request.choose_devices = settings.cuda.visible_devices.has_value();
  request.visible_devices = settings.cuda.visible_devices.value_or("");
  request.pci_order = settings.cuda.pci_order;
  int socket = dialled->socket.get();
  auto session = control::attach(socket, std::move(request), settings.secret, deadline, device_twice);
  if (!session.ok()) return session.status();

  Attached attached;
  attached.sockets.push_back(socket);
  if (dialled->same_host) {
    auto link = transport::accept_shm_link(std::move(dialled->socket), std::chrono::milliseconds(limits::kHandshakeTimeoutMs));
    if (!link.ok()) return link.status();
    attached.link = std::move(*link);
    return attached;
  }
  const uint32_t channels = session->reply.channels;
  if (channels < 2 || channels > 1 + limits::kBulkChannels) {
    return Status(StatusCode::kInvalid, "the server asks for " + std::to_string(channels) + " channels");
  }
  Fd side;
  std::vector<Fd> bulk;
  for (uint32_t index = 0; index < channels; ++index) {
    auto channel = join(address, *session, index, deadline);
    if (!channel.ok()) return channel.status();
    attached.sockets.push_back(channel->get());
    if (index == 0) {
      side = std::move(*channel);
    } else {
      bulk.push_back(std::move(*channel));
    }
  }
  if (settings.encrypt) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    auto link = transport::make_tls_link(std::move(dialled->socket), std::move(side), std::move(bulk), session->session_key,
                                         false, left);
    if (!link.ok()) return link.status();
    attached.link = std::move(*link);
    return attached;
  }
  attached.link = transport::make_tcp_link(std::move(dialled->socket), std::move(side), std::move(bulk));
  return attached;
}

void set_link_factory(LinkFactory factory) { factory_slot() = std::move(factory); }
const LinkFactory& link_factory() { return factory_slot(); }

}  // namespace bf::client
