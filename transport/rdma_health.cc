#include "transport/rdma_health.h"

#include <arpa/inet.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "transport/rdma.h"
#include "transport/rdma_connect.h"

namespace bf::transport {
namespace {

using rdma::loaded_verbs;

constexpr char kManager[] = "/dev/infiniband/rdma_cm";
constexpr int kMostGids = 256;

struct Port {
  std::string name;  // device/port
  bool active = false;
  bool ethernet = false;
  uint32_t mtu_bytes = 0;
  uint32_t most_mtu_bytes = 0;
  std::string gid;  // the one that RDMA connections use, empty if there is none
  std::string gid_type;
};

uint32_t mtu_bytes(ibv_mtu mtu) { return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 0; }

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// RoCE: an address that came from an IP address of the network interface, in version 2, which routers forward.
void find_gid(const std::string& device, int port, Port& out) {
  const std::string folder = "/sys/class/infiniband/" + device + "/ports/" + std::to_string(port);
  for (int i = 0; i < kMostGids; i++) {
    std::string gid = first_line(folder + "/gids/" + std::to_string(i));
    if (gid.empty()) break;
    if (gid == "0000:0000:0000:0000:0000:0000:0000:0000") continue;
    std::string type = first_line(folder + "/gid_attrs/types/" + std::to_string(i));
    bool link_local = gid.starts_with("fe80:");
    bool better = out.gid.empty() || (type == "RoCE v2" && out.gid_type != type) || (type == out.gid_type && out.gid.starts_with("fe80:") && !link_local);
    if (!better) continue;
    out.gid = gid;
    out.gid_type = type;
  }
}

std::vector<Port> ports() {
  std::vector<Port> found;
  int count = 0;
  ibv_device** devices = loaded_verbs().ibv_get_device_list(&count);
  for (int i = 0; devices && i < count; i++) {
    ibv_context* context = loaded_verbs().ibv_open_device(devices[i]);
    if (!context) continue;
    std::string device = loaded_verbs().ibv_get_device_name(devices[i]);
    ibv_device_attr attributes{};
    loaded_verbs().ibv_query_device(context, &attributes);
    for (int number = 1; number <= attributes.phys_port_cnt; number++) {
      ibv_port_attr port{};
      if (loaded_verbs().query_port(context, uint8_t(number), port) != 0) continue;
      Port one;
      one.name = device + "/" + std::to_string(number);
      one.active = port.state == IBV_PORT_ACTIVE;
      one.ethernet = port.link_layer == IBV_LINK_LAYER_ETHERNET;
      one.mtu_bytes = mtu_bytes(port.active_mtu);
      one.most_mtu_bytes = mtu_bytes(port.max_mtu);
      find_gid(device, number, one);
      found.push_back(std::move(one));
    }
    loaded_verbs().ibv_close_device(context);
  }
  if (devices) loaded_verbs().ibv_free_device_list(devices);
  return found;
}

Status manager_status() {
  if (access(kManager, R_OK | W_OK) == 0) return ok_status();
  if (errno == ENOENT)
    return {StatusCode::kUnavailable, std::string(kManager) + " is missing: load the module (modprobe rdma_ucm); in a container, pass /dev/infiniband in"};
  return {StatusCode::kDenied, std::string(kManager) + " cannot be opened (" + strerror(errno) + "): give this user read and write permission"};
}

Status ports_status(const std::vector<Port>& found) {
  if (found.empty())
    return {StatusCode::kUnavailable, "no RDMA device: no adapter with a loaded driver (rdma link), or /dev/infiniband/uverbs* cannot be opened"};
  for (const Port& port : found)
    if (port.active) return ok_status();
  return {StatusCode::kUnavailable, "no RDMA port is active (" + found[0].name + "): check the cable, and that its network interface is up (ip link)"};
}

RdmaCheck graded(std::string name, const Status& status, std::string good) {
  return {std::move(name), status.ok() ? RdmaGrade::kPass : RdmaGrade::kFail, status.ok() ? std::move(good) : status.message()};
}

RdmaCheck check_lock_limit() {
  RdmaCheck check{"rdma locked memory", RdmaGrade::kPass, ""};
  const uint64_t needed = rdma_link_bytes();
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) {
    check.note = "no limit";
  } else {
    check.note = std::to_string(limit.rlim_cur >> 20) + " MiB may be locked, a session needs " + std::to_string((needed >> 20) + 1) + " MiB";
    if (limit.rlim_cur < needed && geteuid() != 0) {
      check.grade = RdmaGrade::kFail;
      check.note += ": raise the limit (ulimit -l unlimited; memlock in /etc/security/limits.conf; LimitMEMLOCK=infinity in a service)";
    }
  }
  return check;
}

}  // namespace

uint64_t rdma_link_bytes() {
  using namespace rdma;
  uint64_t bytes = Buffer::rounded(kLandingBytes) + kRdmaBulkChannels * Buffer::rounded(RdmaBulk::staging_bytes());
  for (uint32_t credits : {kCallsCredits, kSideCredits}) {
    const QueueShape shape = RdmaStream::shape(credits);
    bytes += Buffer::rounded((shape.sends + shape.receives) * RdmaStream::kMessageBytes);
  }
  return bytes;
}

std::vector<RdmaCheck> check_rdma() {
  std::vector<RdmaCheck> checks;
  auto loaded = rdma::verbs();
  checks.push_back(graded("rdma libraries", loaded.status(), "libibverbs and librdmacm are there"));
  if (!loaded.ok()) return checks;
  checks.push_back(graded("rdma connection manager", manager_status(), kManager));
  auto found = ports();
  std::string names;
  for (const Port& port : found)
    names += (names.empty() ? "" : ", ") + port.name + (port.ethernet ? " RoCE" : " InfiniBand") + (port.active ? "" : " (down)");
  checks.push_back(graded("rdma ports", ports_status(found), names));
  for (const Port& port : found) {
    if (!port.active) continue;
    RdmaCheck address{"rdma address of " + port.name, RdmaGrade::kPass, port.gid + (port.gid_type.empty() ? "" : " (" + port.gid_type + ")")};
    if (port.gid.empty() || (port.ethernet && port.gid.starts_with("fe80:"))) {
      address.grade = RdmaGrade::kFail;
      address.note = "the port has no address that reaches beyond its link: give its network interface an IP address (ip address add)";
    } else if (port.ethernet && port.gid_type != "RoCE v2") {
      address.grade = RdmaGrade::kMarginal;
      address.note += ": only RoCE version 1, which routers do not forward; enable RoCE v2";
    }
    checks.push_back(std::move(address));
    RdmaCheck mtu{"rdma MTU of " + port.name, RdmaGrade::kPass, std::to_string(port.mtu_bytes) + " bytes"};
    if (port.mtu_bytes < 2048) {
      mtu.grade = RdmaGrade::kMarginal;
      mtu.note += " (of " + std::to_string(port.most_mtu_bytes) + "): large copies cost more packets; raise the interface's MTU to 4200 or more on both hosts and the switch";
    }
    checks.push_back(std::move(mtu));
  }
  checks.push_back(check_lock_limit());
  return checks;
}

namespace rdma {

Status usable_device() {
  auto loaded = verbs();
  if (!loaded.ok()) return loaded.status();
  BF_RETURN_IF_ERROR(manager_status());
  return ports_status(ports());
}

}  // namespace rdma
}  // namespace bf::transport
