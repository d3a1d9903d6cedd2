#include "tools/localhealth.h"

#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/log.h"
#include "tools/servers.h"
#include "tools/token.h"
#include "transport/rdma_health.h"

namespace bf::tools {
namespace {

using control::Grade;
using control::HealthCheck;
namespace fs = std::filesystem;

constexpr int kGoodMtu = 4096;  // up to 9000: fewer packets for bulk data

HealthCheck check(const char* name, Grade grade, std::string note) { return {name, uint32_t(grade), std::move(note)}; }

HealthCheck check_library() {
  std::error_code error;
  auto library = fs::read_symlink("/proc/self/exe", error).parent_path().parent_path() / "lib/backfield/libcuda.so.1";
  if (::access(library.c_str(), R_OK) == 0) return check("library", Grade::kPass, library.string());
  return check("library", Grade::kFail, "there is no " + library.string() + "; install Backfield completely");
}

HealthCheck check_servers() {
  auto servers = find_servers({}, "");
  if (!servers.ok()) return check("servers", Grade::kFail, servers.status().message());
  return check("servers", Grade::kPass, fmt::format("{} known; 'bf health' asks them", servers->size()));
}

HealthCheck check_token() {
  auto token = find_token();
  if (!token.ok()) return check("token", Grade::kFail, token.status().message());
  if (!*token)
    return check("token", Grade::kMarginal, "none found; servers other than --dev ones ask for one (~/.backfield/token)");
  return check("token", Grade::kPass, "token " + (*token)->id);
}

// Of the interface with the default route.
HealthCheck check_mtu() {
  std::ifstream routes("/proc/net/route");
  std::string line, interface;
  while (interface.empty() && std::getline(routes, line)) {
    std::istringstream fields(line);
    std::string name, destination;
    if (fields >> name >> destination && destination == "00000000") interface = name;
  }
  int mtu = 0;
  std::ifstream("/sys/class/net/" + interface + "/mtu") >> mtu;
  if (mtu == 0) return check("mtu", Grade::kMarginal, "no network interface with a default route");
  std::string note = fmt::format("{} bytes on {}", mtu, interface);
  if (mtu >= kGoodMtu) return check("mtu", Grade::kPass, note);
  return check("mtu", Grade::kMarginal, note + fmt::format("; {} to 9000 make large copies faster, on this network if it allows them", kGoodMtu));
}

// Where there is no device, RDMA is no wish: one line. Where there is one, everything that a session over it needs.
void add_rdma_checks(std::vector<HealthCheck>& checks) {
  std::error_code error;
  if (fs::directory_iterator("/sys/class/infiniband", error) == fs::directory_iterator()) {
    checks.push_back(check("rdma", Grade::kPass, "no device; tcp is used"));
    return;
  }
  for (auto& one : transport::check_rdma()) checks.push_back({one.name, uint32_t(one.grade), one.note});
}

HealthCheck check_disk() {
  const char* home = std::getenv("HOME");
  struct statvfs facts {};
  if (home == nullptr || ::statvfs(home, &facts) != 0) return check("disk", Grade::kMarginal, "no home folder for caches");
  uint64_t free_mib = uint64_t(facts.f_bavail) * facts.f_frsize >> 20;
  std::string note = fmt::format("{} MiB free in {}", free_mib, home);
  return free_mib >= 1024 ? check("disk", Grade::kPass, note)
                          : check("disk", Grade::kMarginal, note + "; caches need some: free at least 1 GiB");
}

HealthCheck check_clock() {
  timex clock{};
  int state = ::adjtimex(&clock);
  if (state == TIME_ERROR || (clock.status & STA_UNSYNC))
    return check("clock", Grade::kMarginal, "not synchronised; run chrony or systemd-timesyncd, or tokens end at the wrong time");
  return check("clock", Grade::kPass, "synchronised");
}

}  // namespace

std::vector<HealthCheck> check_local_health() {
  std::vector<HealthCheck> checks{check_library(), check_servers(), check_token(), check_mtu(), check_disk(), check_clock()};
  add_rdma_checks(checks);
  return checks;
}

}  // namespace bf::tools
