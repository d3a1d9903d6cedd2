#include "server/daemon/watch.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>

#include "base/log.h"

namespace bf::daemon {
namespace {

constexpr uint64_t kMemoryMib = 512;  // workers and landing rings need some; below, the kernel ends processes
constexpr uint64_t kDiskMib = 16;     // for the state database and the audit log
constexpr time_t kEarliest = 1'750'000'000;

// From NVIDIA's catalogue of Xid errors: those whose action is to reset or to replace the GPU, or to reboot.
constexpr std::array kGraveXids = {48u, 62u, 64u, 74u, 79u, 95u, 109u, 119u, 120u, 136u, 140u, 143u, 154u};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace

Vitals read_vitals(const std::string& state_dir, time_t certificate_expires) {
  Vitals vitals{.disk = state_dir, .certificate_expires = certificate_expires, .now = ::time(nullptr)};
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kib = 0;
    words >> name >> kib;
    if (name == "MemTotal:") vitals.memory_mib = kib >> 10;
    if (name == "MemAvailable:") vitals.memory_free_mib = kib >> 10;
  }
  struct statvfs disk {};
  if (state_dir.empty() || ::statvfs(state_dir.c_str(), &disk) != 0)
    vitals.disk.clear();
  else
    vitals.disk_free_mib = uint64_t(disk.f_bavail) * disk.f_frsize >> 20;
  return vitals;
}

std::string unfit(const Vitals& vitals) {
  if (vitals.now < kEarliest) return "its clock is years behind; set it";
  if (vitals.certificate_expires != 0 && vitals.now >= vitals.certificate_expires)
    return "its certificate has expired; renew it, or restart bfserver if it made it itself";
  if (vitals.memory_mib > 0 && vitals.memory_free_mib < std::min(kMemoryMib, vitals.memory_mib / 16))
    return fmt::format("only {} MiB of its main memory are left", vitals.memory_free_mib);
  if (!vitals.disk.empty() && vitals.disk_free_mib < kDiskMib)
    return fmt::format("only {} MiB are left in {}, and leases could not be written down", vitals.disk_free_mib, vitals.disk);
  return {};
}

std::string unfit(const Monitor::Reading& reading) {
  if (reading.lost) return "it fell off the bus; reboot the machine, and look at power and seating";
  if (reading.remapping_failed) return "rows of its memory could not be remapped; replace the card";
  if (reading.uncorrected_errors > 0) return fmt::format("{} uncorrected memory errors; reset the GPU", reading.uncorrected_errors);
  return {};
}

std::optional<Xid> grave_xid(const std::string& line) {
  constexpr std::string_view kMark = "NVRM: Xid (PCI:";
  size_t at = line.find(kMark);
  if (at == std::string::npos) return std::nullopt;
  size_t from = at + kMark.size(), to = line.find("): ", from);
  if (to == std::string::npos) return std::nullopt;
  Xid xid{lower(line.substr(from, to - from)), uint32_t(::strtoul(line.c_str() + to + 3, nullptr, 10))};
  if (std::find(kGraveXids.begin(), kGraveXids.end(), xid.number) == kGraveXids.end()) return std::nullopt;
  return xid;
}

Watch::~Watch() {
  loop_.cancel(timer_);
  if (kernel_log_) loop_.forget(kernel_log_.get());
}

void Watch::start(const std::string& kernel_log, std::function<Vitals()> vitals) {
  vitals_ = std::move(vitals);
  kernel_log_.reset(::open(kernel_log.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (kernel_log_ && ::lseek(kernel_log_.get(), 0, SEEK_END) < 0 && errno == ESPIPE) errno = 0;  // a pipe has no past
  if (kernel_log_ && !loop_.watch(kernel_log_.get(), EPOLLIN, [this](uint32_t) { read_kernel_log(); }).ok()) kernel_log_.reset();
  look();
}

void Watch::look() {
  judge();
  // Whoever waits for readings gets them in this round, we in the next.
  (void)monitor_.when_fresh([] {});
  timer_ = loop_.after(kPeriod, [this] { look(); });
}

// One record for each read; those that were overwritten meanwhile (EPIPE) are gone.
void Watch::read_kernel_log() {
  char record[8192];
  for (int i = 0; i < 256; i++) {
    ssize_t got = ::read(kernel_log_.get(), record, sizeof record - 1);
    if (got < 0 && (errno == EPIPE || errno == EINTR)) continue;
    if (got < 0 && errno == EAGAIN) break;
    if (got <= 0) {  // nobody writes it any more
      loop_.forget(kernel_log_.get());
      kernel_log_.reset();
      break;
    }
    std::istringstream lines(std::string(record, size_t(got)));
    for (std::string line; std::getline(lines, line);) take(line);
  }
  judge();
}

// The kernel names a card without its function, CUDA with it, and with fewer or more digits of the domain.
void Watch::take(const std::string& line) {
  auto xid = grave_xid(line);
  if (!xid) return;
  for (size_t i = 0; i < gpus_.size(); i++) {
    std::string own = lower(gpus_[i].facts.pci_bus_id);
    own = own.substr(0, own.rfind('.'));
    auto tail = [](const std::string& text) { return text.size() > 10 ? text.substr(text.size() - 10) : text; };
    if (tail(own) == tail(xid->pci))
      xids_[i] = fmt::format("the driver reported Xid {} of it; reset the GPU, then restart bfserver", xid->number);
  }
}

void Watch::judge() {
  auto now = EventLoop::Clock::now();
  bool readings = monitor_.running() && monitor_.sampled_at() != EventLoop::Clock::time_point{};
  if (readings && now - monitor_.sampled_at() < kNvmlSilence) nvml_seen_ = now;
  bool silent = nvml_seen_ != EventLoop::Clock::time_point{} && now - nvml_seen_ > kNvmlSilence;
  for (size_t i = 0; i < gpus_.size(); i++)
    put(i, !xids_[i].empty() ? xids_[i] : silent ? "NVML does not answer any more; see the log" : unfit(monitor_.reading(i)));
  std::string note = unfit(vitals_());
  if (note == server_note_) return;
  server_note_ = note;
  say_("the server", note);
}

void Watch::put(size_t gpu, const std::string& why) {
  control::Gpu& facts = gpus_[gpu].facts;
  if (facts.healthy == why.empty() && facts.health_note == why) return;
  facts.healthy = why.empty();
  facts.health_note = why;
  say_("GPU " + std::to_string(facts.index), why);
}

}  // namespace bf::daemon
