#include "server/daemon/monitor.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>

#include "nvml/nvml_api.h"
#include "proto/nvml/answers.h"
#include "proto/supervise.h"
#include "server/daemon/log.h"
#include "server/daemon/process.h"

namespace bf::daemon {

Monitor::Monitor(EventLoop& loop, const WorkerSetup& setup, std::vector<GpuState>& gpus)
    : loop_(loop), setup_(setup), gpus_(gpus), readings_(gpus.size()) {}

Monitor::~Monitor() {
  loop_.cancel(hang_);
  loop_.cancel(patience_);
  loop_.cancel(restart_);
  if (control_) loop_.forget(control_.get());
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Monitor::start() {
  auto pair = supervise::make_pair();
  if (!pair.ok()) return start_again();
  auto pid =
      spawn_process({setup_.path, {"--control-fd", "3", "--monitor"}, setup_.environment, -1, pair->second.get()});
  if (!pid.ok()) return start_again();
  pid_ = *pid;
  control_ = std::move(pair->first);
  asked_ = false;
  if (!loop_.watch(control_.get(), EPOLLIN, [this](uint32_t) { on_message(); }).ok()) return end_child();
  ask();
}

void Monitor::ask() {
  if (asked_ || !control_) return;
  if (!supervise::send(control_.get(), supervise::Kind::kSample, control::encode_MonitorRequest({})).ok()) return;
  asked_ = true;
  hang_ = loop_.after(kHang, [this] {
    log::warn("the monitor hangs; ending it");
    end_child();
  });
}

bool Monitor::when_fresh(std::function<void()> then) {
  if (fresh()) {
    then();
    return true;
  }
  if (waiting_.size() >= kWaiting) return false;
  ask();
  if (waiting_.empty()) patience_ = loop_.after(kPatience, [this] { answer_all(); });
  waiting_.push_back(std::move(then));
  return true;
}

void Monitor::answer_all() {
  loop_.cancel(patience_);
  auto waiting = std::move(waiting_);
  waiting_.clear();
  for (auto& then : waiting) then();
}

void Monitor::on_message() {
  for (;;) {
    auto message = supervise::receive(control_.get(), Clock::time_point{});
    if (!message.ok()) {
      if (message.status().code() != StatusCode::kTimeout) end_child();
      return;
    }
    if (message->kind != supervise::Kind::kReading) continue;
    auto report = control::decode_MonitorReport(control::as_bytes(message->body));
    if (!report.ok()) return end_child();
    take(std::move(*report));
  }
}

void Monitor::take(control::MonitorReport report) {
  if (report.system) {
    if (!report.facts.empty()) system_ = std::move(report.facts);
    return;
  }
  for (size_t i = 0; i < gpus_.size(); i++) {
    control::Gpu& gpu = gpus_[i].facts;
    if (gpu.uuid != report.uuid) continue;
    nvml::Answers answers;
    if (!answers.merge(report.facts).ok() || !answers.merge(report.sample).ok()) return end_child();
    Reading& reading = readings_[i];
    reading.index = report.index;
    if (!report.facts.empty()) {
      reading.facts = std::move(report.facts);
      reading.facts_version = ++version_;
    }
    if (report.sample.empty() && !report.last) return;  // new facts of this GPU only
    reading.sample = std::move(report.sample);
    reading.sample_version = ++version_;
    reading.sample_unix_us = report.sample_unix_us;
    auto number = [&](const char* function, size_t offset = 0) {
      return answers.number<uint32_t>(function, {}, offset).value_or(0);
    };
    reading.uncorrected_errors =
        answers
            .number<uint64_t>("nvmlDeviceGetTotalEccErrors",
                              {nvml::NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml::NVML_VOLATILE_ECC})
            .value_or(0);
    const nvml::Answer* temperature = answers.find(nvml::name_id("nvmlDeviceGetTemperature"), {});
    reading.lost = temperature != nullptr && temperature->result == nvml::NVML_ERROR_GPU_IS_LOST;
    reading.remapping_failed = number("nvmlDeviceGetRemappedRows", 3 * sizeof(uint32_t)) != 0;
    if (uint32_t slowdown =
            answers.number<uint32_t>("nvmlDeviceGetTemperatureThreshold", {nvml::NVML_TEMPERATURE_THRESHOLD_SLOWDOWN})
                .value_or(0))
      reading.slowdown_c = slowdown;  // a fact: samples do not repeat it
    gpu.sampled = true;
    gpu.temperature_c = number("nvmlDeviceGetTemperature");
    gpu.power_mw = number("nvmlDeviceGetPowerUsage");
    gpu.power_limit_mw = number("nvmlDeviceGetEnforcedPowerLimit");
    gpu.gpu_percent = number("nvmlDeviceGetUtilizationRates");
    gpu.memory_percent = number("nvmlDeviceGetUtilizationRates", sizeof(uint32_t));
  }
  if (!report.last) return;
  loop_.cancel(hang_);
  asked_ = false;
  failures_ = 0;
  sampled_at_ = Clock::now();
  answer_all();
}

// Its death is noticed by reap(), which starts the next one.
void Monitor::end_child() {
  if (control_) loop_.forget(control_.get());
  control_.reset();
  loop_.cancel(hang_);
  if (pid_ > 0) ::kill(pid_, SIGKILL);
  answer_all();
}

void Monitor::reap() {
  if (pid_ <= 0 || ::waitpid(pid_, nullptr, WNOHANG) != pid_) return;
  pid_ = -1;
  end_child();
  start_again();
}

void Monitor::start_again() {
  auto delay = std::chrono::seconds(1u << std::min(failures_++, 9u));
  log::at(failures_ == 1 ? LogLevel::kWarn : LogLevel::kDebug,
          "the monitor ended; readings of the GPUs stay as they are, and it starts again in {} s", delay.count());
  restart_ = loop_.after(delay, [this] { start(); });
}

}  // namespace bf::daemon
