#include "tools/netperf.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "proto/control.h"
#include "proto/control_channel.h"
#include "tools/remote.h"

namespace bf::tools {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kWarmUpPings = 200;
constexpr int kPings = 2000;
constexpr size_t kPingBytes = 64;
constexpr uint64_t kBulkBytes = 256 << 20;
constexpr auto kPatience = milliseconds(10'000);
constexpr auto kSpin = std::chrono::microseconds(200);

// Waits as a session does: polls for a while before it sleeps.
void spin_until_readable(int socket) {
  char byte;
  for (auto start = Clock::now(); Clock::now() - start < kSpin;)
    if (::recv(socket, &byte, 1, MSG_DONTWAIT | MSG_PEEK) >= 0 || errno != EAGAIN) return;
}

Status ping(Remote& remote, const std::string& payload) {
  auto deadline = control::deadline_in(kPatience);
  BF_RETURN_IF_ERROR(control::send_frame(remote.wire(), Opcode::kPing, 0, {}, payload, deadline));
  spin_until_readable(remote.fd());
  auto frame = control::receive_frame(remote.wire(), deadline);
  if (!frame.ok()) return frame.status();
  if (frame->opcode != Opcode::kPing || frame->payload != payload)
    return {StatusCode::kInvalid, "the server did not return what it was sent"};
  return {};
}

Status measure_latency(Remote& remote, PathResult& result) {
  std::string payload(kPingBytes, 'b');
  for (int i = 0; i < kWarmUpPings; i++) BF_RETURN_IF_ERROR(ping(remote, payload));
  std::vector<double> times_us;
  for (int i = 0; i < kPings; i++) {
    auto start = Clock::now();
    BF_RETURN_IF_ERROR(ping(remote, payload));
    times_us.push_back(seconds_since(start) * 1e6);
  }
  std::sort(times_us.begin(), times_us.end());
  result.min_us = times_us.front();
  result.median_us = times_us[times_us.size() / 2];
  result.p99_us = times_us[times_us.size() * 99 / 100];
  return {};
}

// Sends `payload` and asks for `back` bytes; returns when all of them have come.
Status exchange(Remote& remote, const std::string& payload, uint64_t back) {
  auto request = control::encode_BandwidthRequest({back});
  BF_RETURN_IF_ERROR(
      control::send_frame(remote.wire(), Opcode::kBandwidth, 0, request, payload, control::deadline_in(kPatience)));
  std::vector<char> buffer(1 << 20);
  for (uint64_t got = 0;;) {
    auto header = control::receive_header(remote.wire(), control::deadline_in(kPatience));
    if (!header.ok()) return header.status();
    if (header->opcode != uint16_t(Opcode::kBandwidth) || header->body_bytes != 0 ||
        header->payload_bytes > buffer.size())
      return {StatusCode::kInvalid, "the server did not answer as netperf expects"};
    BF_RETURN_IF_ERROR(
        remote.wire().receive(buffer.data(), header->payload_bytes, control::deadline_in(kPatience)));
    got += header->payload_bytes;
    if (got >= back) return {};
    if (header->payload_bytes == 0) return {StatusCode::kInvalid, "the server sent less than it was asked for"};
  }
}

Status measure_bandwidth(Remote& remote, PathResult& result) {
  std::string block(limits::kPayloadBytes, '\0');
  auto start = Clock::now();
  for (uint64_t sent = 0; sent < kBulkBytes; sent += block.size()) BF_RETURN_IF_ERROR(exchange(remote, block, 0));
  result.to_server_mib_s = double(kBulkBytes >> 20) / seconds_since(start);
  start = Clock::now();
  BF_RETURN_IF_ERROR(exchange(remote, {}, kBulkBytes));
  result.from_server_mib_s = double(kBulkBytes >> 20) / seconds_since(start);
  return {};
}

}  // namespace

Result<PathResult> measure(const transport::Address& address) {
  auto remote = Remote::open(address, control::deadline_in(kPatience));
  if (!remote.ok()) return remote.status();
  PathResult result;
  result.path = address.unix_name.empty() ? "tcp" : "unix";
  BF_RETURN_IF_ERROR(measure_latency(**remote, result));
  BF_RETURN_IF_ERROR(measure_bandwidth(**remote, result));
  return result;
}

transport::Address local_path(const transport::Address& address) {
  auto socket = transport::dial(address, kPatience);
  if (!socket.ok() || !address.unix_name.empty()) return {};
  sockaddr_storage here{}, there{};
  socklen_t here_bytes = sizeof here, there_bytes = sizeof there;
  ::getsockname(socket->get(), reinterpret_cast<sockaddr*>(&here), &here_bytes);
  ::getpeername(socket->get(), reinterpret_cast<sockaddr*>(&there), &there_bytes);
  // Family and address, less the port: both structures begin with family and port.
  constexpr size_t kSkip = sizeof(sa_family_t) + sizeof(in_port_t);
  bool same =
      here_bytes == there_bytes && here.ss_family == there.ss_family &&
      memcmp(reinterpret_cast<char*>(&here) + kSkip, reinterpret_cast<char*>(&there) + kSkip, here_bytes - kSkip) == 0;
  if (!same) return {};
  transport::Address local;
  local.unix_name = "backfield." + std::to_string(address.port);
  return local;
}

}  // namespace bf::tools
