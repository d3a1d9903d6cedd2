#include "server/daemon/health.h"

#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "base/log.h"

namespace bf::daemon {
namespace {

using control::Grade;
using control::HealthCheck;

HealthCheck check(const char* name, Grade grade, std::string note) { return {name, uint32_t(grade), std::move(note)}; }

HealthCheck check_driver(const Inventory& inventory) {
  std::string version =
      fmt::format("CUDA {}.{}", inventory.driver_version / 1000, inventory.driver_version % 1000 / 10);
  if (inventory.software) return check("driver", Grade::kPass, version + ", the software GPU");
  if (inventory.driver_version < 12000)
    return check("driver", Grade::kMarginal, version + "; programs for CUDA 12 and 13 need a newer driver: update it");
  return check("driver", Grade::kPass, version);
}

HealthCheck check_offering(const Watch& watch) {
  if (!watch.server_note().empty()) return check("offering", Grade::kFail, "no new leases: " + watch.server_note());
  return check("offering", Grade::kPass, watch.reads_kernel_log() ? "the driver's errors are watched" : "the driver's errors (Xid) are not watched");
}

HealthCheck check_gpus(const Inventory& inventory) {
  size_t healthy = 0;
  std::string notes;
  for (auto& gpu : inventory.gpus) {
    if (gpu.facts.healthy)
      healthy++;
    else
      notes += fmt::format("; GPU {}: {}", gpu.facts.index, gpu.facts.health_note);
  }
  std::string note = fmt::format("{} of {} work{}", healthy, inventory.gpus.size(), notes);
  Grade grade = healthy == inventory.gpus.size() ? Grade::kPass : healthy > 0 ? Grade::kMarginal : Grade::kFail;
  return check("gpus", grade, note);
}

// What the vendor's NVML says of the cards: memory that fails, and heat.
HealthCheck check_readings(const Inventory& inventory, const Monitor& monitor) {
  if (!monitor.running())
    return check("readings", Grade::kMarginal, "NVML does not answer, nvidia-smi will show little; see the log");
  Grade grade = Grade::kPass;
  std::string notes;
  for (size_t i = 0; i < inventory.gpus.size(); i++) {
    auto& reading = monitor.reading(i);
    auto note = [&](Grade worse, const std::string& text) {
      grade = std::max(grade, worse);
      notes += fmt::format("{}GPU {}: {}", notes.empty() ? "" : "; ", inventory.gpus[i].facts.index, text);
    };
    if (reading.facts_version == 0) note(Grade::kMarginal, "no reading yet");
    if (reading.remapping_failed) note(Grade::kFail, "rows of its memory could not be remapped; replace the card");
    if (reading.uncorrected_errors > 0)
      note(Grade::kMarginal, fmt::format("{} uncorrected memory errors; reset the GPU", reading.uncorrected_errors));
    if (reading.slowdown_c > 0 && inventory.gpus[i].facts.temperature_c >= reading.slowdown_c)
      note(Grade::kMarginal, fmt::format("{} C, it slows down; check its cooling", inventory.gpus[i].facts.temperature_c));
  }
  return check("readings", grade, notes.empty() ? "NVML answers" : notes);
}

HealthCheck check_worker(const WorkerSetup& setup) {
  if (::access(setup.path.c_str(), X_OK) != 0)
    return check("worker", Grade::kFail, setup.path + " cannot be executed; install Backfield again or use --worker");
  if (::geteuid() == 0 && setup.user.empty())
    return check("worker", Grade::kMarginal,
                 "runs as root; create the user 'backfield' or name one with --worker-user");
  return check("worker", Grade::kPass, setup.path + (setup.user.empty() ? "" : ", as " + setup.user));
}

HealthCheck check_disk() {
  const char* folder = ::access("/var/cache/backfield", F_OK) == 0 ? "/var/cache/backfield" : "/var/tmp";
  struct statvfs facts;
  if (::statvfs(folder, &facts) != 0)
    return check("disk", Grade::kMarginal, fmt::format("cannot see how full {} is", folder));
  uint64_t free_mib = uint64_t(facts.f_bavail) * facts.f_frsize >> 20;
  std::string note = fmt::format("{} MiB free in {}", free_mib, folder);
  if (free_mib < 1024) return check("disk", Grade::kMarginal, note + "; caches need some: free at least 1 GiB");
  return check("disk", Grade::kPass, note);
}

HealthCheck check_limits() {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  std::string note = fmt::format("{} open files", files.rlim_cur);
  if (files.rlim_cur < 8192)
    return check("limits", Grade::kMarginal, note + "; raise LimitNOFILE (ulimit -n) to 8192 or more");
  return check("limits", Grade::kPass, note);
}

HealthCheck check_clock() {
  timex clock{};
  int state = ::adjtimex(&clock);
  if (::time(nullptr) < 1'750'000'000)
    return check("clock", Grade::kFail, "the clock is years behind; set it, or logs and tokens will be wrong");
  if (state == TIME_ERROR || (clock.status & STA_UNSYNC))
    return check("clock", Grade::kMarginal, "not synchronised; run chrony or systemd-timesyncd");
  return check("clock", Grade::kPass, "synchronised");
}

HealthCheck check_certificate(time_t expires) {
  if (expires == 0) return check("certificate", Grade::kPass, "none with --dev");
  int64_t days = (int64_t(expires) - ::time(nullptr)) / 86'400;
  std::string note = fmt::format("valid for {} days", days);
  if (days < 0) return check("certificate", Grade::kFail, "expired; renew it, or restart bfserver if it made it itself");
  if (days < 14) return check("certificate", Grade::kMarginal, note + "; renew it, or restart bfserver if it made it itself");
  return check("certificate", Grade::kPass, note);
}

}  // namespace

std::vector<HealthCheck> check_health(const Inventory& inventory, const WorkerSetup& setup, const Monitor& monitor,
                                      const Watch& watch, time_t certificate_expires) {
  return {check_offering(watch),   check_driver(inventory), check_gpus(inventory), check_readings(inventory, monitor),
          check_worker(setup),     check_disk(),          check_limits(),
          check_clock(),           check_certificate(certificate_expires)};
}

}  // namespace bf::daemon
