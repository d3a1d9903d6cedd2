#include "server/worker/monitor.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

#include "base/log.h"
#include "proto/nvml/answers.h"
#include "proto/nvml/row.h"
#include "proto/supervise.h"
#include "server/worker/nvml_library.h"

namespace bf::server {
namespace {

using nvml::Kind;
using nvml::Row;

constexpr uint32_t kArrayElements = 256;  // an H200 has 130 graphics clocks
constexpr uint32_t kSlowPeriod = 10;      // seconds; the table's "slow"
constexpr auto kFactsAge = std::chrono::minutes(10);
constexpr size_t kFieldsAtOnce = 32;
constexpr size_t kBufferBytes = 64 << 10;

using Clock = std::chrono::steady_clock;

struct Gpu {
  nvml::nvmlDevice_t device = nullptr;
  std::string uuid;
  std::vector<control::NvmlAnswer> facts;
  Clock::time_point facts_at{};
  Clock::time_point slow_at{};
  std::vector<control::NvmlAnswer> slow;  // the last answers to what is asked more rarely than a sample is taken
};

uint64_t word(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

uint64_t unix_us() {
  return uint64_t(
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

// Asks one row of the table: every combination of its keys.
class Asker {
 public:
  Asker(const Row& row, void* function, const std::vector<Gpu>& gpus) : row_(row), function_(function), gpus_(gpus) {
    for (auto& buffer : buffers_) buffer.resize(kBufferBytes);
  }

  // With `again`, only what was answered successfully there.
  std::vector<control::NvmlAnswer> ask(nvml::nvmlDevice_t device, const std::vector<control::NvmlAnswer>* again) {
    device_ = device;
    answers_.clear();
    if (again == nullptr) {
      keys_ = {};
      descend(0, 0);
    } else {
      for (const auto& answer : *again) {
        if (answer.function != row_.id || answer.result != 0) continue;
        keys_ = {answer.key1, answer.key2, answer.key3, answer.key4};
        if (is_fresh()) call();
      }
    }
    return std::move(answers_);
  }

  // The arrays of answers that keys are taken from.
  std::vector<std::pair<uint32_t, std::vector<uint32_t>>> arrays;

 private:
  // Is the question with the present keys one that is asked again?
  bool is_fresh() const {
    size_t key = 0;
    for (const nvml::Parameter& parameter : row_.parameters) {
      if (parameter.kind != Kind::kKey) continue;  // rows with other kinds of keys ask for all of them again
      const auto& fresh = parameter.fresh;
      if (!fresh.empty() && std::find(fresh.begin(), fresh.end(), keys_[key]) == fresh.end()) return false;
      key++;
    }
    return true;
  }

  std::vector<uint32_t> values_of(const nvml::Parameter& parameter) const {
    if (parameter.kind == Kind::kPeer) {
      std::vector<uint32_t> all;
      for (uint32_t i = 0; i < gpus_.size(); ++i) all.push_back(i);
      return all;
    }
    for (const auto& [function, elements] : arrays)
      if (function == parameter.values_of) return elements;
    std::vector<uint32_t> values(parameter.values.begin(), parameter.values.end());
    if (parameter.kind == Kind::kVersioned) values.push_back(0);  // what it says to a version that it does not know
    return values;
  }

  // Fixes the keys of the parameters from `index` on, the first of them being key number `key`.
  void descend(size_t index, size_t key) {
    if (index == row_.parameters.size()) return call();
    const nvml::Parameter& parameter = row_.parameters[index];
    if (parameter.kind != Kind::kKey && parameter.kind != Kind::kPeer && parameter.kind != Kind::kVersioned)
      return descend(index + 1, key);
    for (const uint32_t value : values_of(parameter)) {
      keys_[key] = value;
      if (value == 0 && parameter.kind == Kind::kVersioned)
        descend(index + 1, key + 1);
      else
        descend_fields(index, key + 1, 0);
    }
    keys_[key] = 0;
  }

  void descend_fields(size_t index, size_t key, size_t field) {
    const auto& fields = row_.parameters[index].key_fields;
    if (field == fields.size() || fields[field].values.empty()) return descend(index + 1, key);
    for (const uint32_t value : fields[field].values) {
      keys_[key] = value;
      descend_fields(index, key + 1, field + 1);
    }
    keys_[key] = 0;
  }

  void call() {
    uint64_t arguments[nvml::kArguments] = {};
    size_t key = 0;
    for (size_t i = 0; i < row_.parameters.size(); ++i) {
      const nvml::Parameter& parameter = row_.parameters[i];
      auto& buffer = buffers_[i];
      std::memset(buffer.data(), 0, used_[i]);
      used_[i] = 0;
      arguments[i] = word(buffer.data());
      const auto room = [&](size_t bytes) { used_[i] = std::min(bytes, kBufferBytes); };
      switch (parameter.kind) {
        case Kind::kDevice:
          arguments[i] = word(device_);
          break;
        case Kind::kPeer:
          arguments[i] = word(gpus_[std::min<size_t>(keys_[key++], gpus_.size() - 1)].device);
          break;
        case Kind::kKey:
          arguments[i] = keys_[key++];
          break;
        case Kind::kOut:
          room(parameter.bytes);
          break;
        case Kind::kBuffer:
          room(parameter.bytes);
          break;
        case Kind::kText:
          room(nvml::kTextBytes);
          break;
        case Kind::kLength:
          arguments[i] = used_[i - 1];
          break;
        case Kind::kCount:
          room(sizeof kArrayElements), std::memcpy(buffer.data(), &kArrayElements, sizeof kArrayElements);
          break;
        case Kind::kArray:
          room(size_t{kArrayElements} * parameter.bytes);
          break;
        case Kind::kVersioned: {
          const uint32_t version = keys_[key++];
          room(version ? nvml::version_bytes(version) : kBufferBytes);
          std::memcpy(buffer.data(), &version, sizeof version);
          for (const auto& field : parameter.key_fields)
            if (!field.values.empty() && version) std::memcpy(buffer.data() + field.offset, &keys_[key++], 4);
          break;
        }
      }
    }
    control::NvmlAnswer answer{row_.id, keys_[0], keys_[1], keys_[2], keys_[3], 0, {}};
    answer.result = uint32_t(function_ ? row_.call(function_, arguments) : nvml::NVML_ERROR_NOT_SUPPORTED);
    if (answer.result == 0) answer.value = collect();
    if (answer.value.size() <= control::kAnswerBytes) answers_.push_back(std::move(answer));
  }

  std::string collect() const {
    std::string value;
    uint32_t count = 0;
    for (size_t i = 0; i < row_.parameters.size(); ++i) {
      const char* bytes = buffers_[i].data();
      switch (row_.parameters[i].kind) {
        case Kind::kOut:
        case Kind::kBuffer:
        case Kind::kVersioned:
          value.append(bytes, used_[i]);
          break;
        case Kind::kText:
          value.append(bytes, strnlen(bytes, nvml::kTextBytes));
          break;
        case Kind::kCount:
          std::memcpy(&count, bytes, sizeof count);
          count = std::min(count, kArrayElements);
          value.append(reinterpret_cast<const char*>(&count), sizeof count);
          break;
        case Kind::kArray:
          value.append(bytes, size_t{count} * row_.parameters[i].bytes);
          break;
        default:
          break;
      }
    }
    while (!value.empty() && value.back() == '\0') value.pop_back();
    return value;
  }

  const Row& row_;
  void* const function_;
  const std::vector<Gpu>& gpus_;
  nvml::nvmlDevice_t device_ = nullptr;
  nvml::Keys keys_{};
  std::array<std::vector<char>, nvml::kArguments> buffers_;
  std::array<size_t, nvml::kArguments> used_{};
  std::vector<control::NvmlAnswer> answers_;
};

std::vector<uint32_t> array_of(const std::vector<control::NvmlAnswer>& answers) {
  std::vector<uint32_t> elements;
  for (const auto& answer : answers)
    for (size_t at = 4; at + 4 <= answer.value.size(); at += 4) {
      uint32_t element;
      std::memcpy(&element, answer.value.data() + at, sizeof element);
      elements.push_back(element);
    }
  return elements;
}

class Monitor {
 public:
  explicit Monitor(NvmlLibrary library) : library_(library) {
    unsigned count = 0;
    library_.count(&count);
    for (unsigned i = 0; i < count; ++i) {
      Gpu gpu;
      char text[nvml::kTextBytes] = "";
      if (library_.by_index(i, &gpu.device) != nvml::NVML_SUCCESS ||
          library_.uuid(gpu.device, text, sizeof text) != nvml::NVML_SUCCESS)
        continue;
      gpu.uuid = text;
      gpus_.push_back(std::move(gpu));
    }
    for (const Row& row : nvml::rows())
      askers_.push_back(std::make_unique<Asker>(row, library_.function(row.name), gpus_));
  }

  size_t gpus() const { return gpus_.size(); }

  control::MonitorReport system() {
    control::MonitorReport report;
    report.system = true;
    control::NvmlAnswers all;
    for (size_t i = 0; i < askers_.size(); ++i)
      if (!nvml::rows()[i].device) append(all.answers, askers_[i]->ask(nullptr, nullptr));
    report.facts = nvml::encode_answers(all, control::kSystemBytes);
    return report;
  }

  control::MonitorReport facts(size_t index) {
    Gpu& gpu = gpus_[index];
    ask_all(gpu);
    gpu.facts_at = Clock::now();
    control::MonitorReport report = about(index);
    report.facts = nvml::encode_answers({gpu.facts}, control::kFactsBytes);
    if (control::encode_NvmlAnswers({gpu.facts}).size() > report.facts.size())
      BF_WARN("monitor: NVML says more of GPU {} than {} bytes; the rest is left out", index, control::kFactsBytes);
    return report;
  }

  // A GPU whose facts are old.
  std::optional<size_t> outdated() const {
    for (size_t i = 0; i < gpus_.size(); ++i)
      if (Clock::now() - gpus_[i].facts_at > kFactsAge) return i;
    return std::nullopt;
  }

  control::MonitorReport sample(size_t index) {
    Gpu& gpu = gpus_[index];
    if (Clock::now() - gpu.slow_at >= std::chrono::seconds(kSlowPeriod)) {
      gpu.slow = ask_again(gpu, kSlowPeriod);
      gpu.slow_at = Clock::now();
    }
    control::NvmlAnswers sample{ask_again(gpu, 1)};
    append(sample.answers, gpu.slow);
    control::MonitorReport report = about(index);
    report.sample = nvml::encode_answers(sample, control::kSampleBytes);
    report.sample_unix_us = unix_us();
    return report;
  }

 private:
  control::MonitorReport about(size_t index) const {
    control::MonitorReport report;
    report.uuid = gpus_[index].uuid;
    report.index = uint32_t(index);
    return report;
  }

  static void append(std::vector<control::NvmlAnswer>& all, std::vector<control::NvmlAnswer> some) {
    for (auto& answer : some) all.push_back(std::move(answer));
  }

  // What is asked every `period_s` seconds, as far as it was answered before.
  std::vector<control::NvmlAnswer> ask_again(const Gpu& gpu, uint32_t period_s) {
    std::vector<control::NvmlAnswer> answers;
    for (size_t i = 0; i < askers_.size(); ++i)
      if (nvml::rows()[i].device && nvml::rows()[i].period_s == period_s)
        append(answers, askers_[i]->ask(gpu.device, &gpu.facts));
    std::vector<nvml::nvmlFieldValue_t> fields;
    for (const auto& answer : gpu.facts) {
      if (answer.function != nvml::kFieldFunction || answer.result != 0) continue;
      if (nvml::fields()[answer.key1 - 1].period_s == period_s) add_field(fields, answer.key1, answer.key2);
    }
    ask_fields(gpu, fields, answers);
    return answers;
  }

  static void add_field(std::vector<nvml::nvmlFieldValue_t>& fields, uint32_t id, uint32_t scope) {
    nvml::nvmlFieldValue_t field{};
    field.fieldId = id;
    field.scopeId = scope;
    field.nvmlReturn = nvml::NVML_ERROR_UNKNOWN;  // if the library does not get to it
    fields.push_back(field);
  }

  void ask_all(Gpu& gpu) {
    gpu.facts.clear();
    std::vector<std::pair<uint32_t, std::vector<uint32_t>>> arrays;
    std::unordered_set<uint32_t> wanted;
    for (const Row& row : nvml::rows())
      for (const auto& parameter : row.parameters)
        if (parameter.values_of) wanted.insert(parameter.values_of);
    for (const bool keyed_by_answers : {false, true}) {
      for (size_t i = 0; i < askers_.size(); ++i) {
        const Row& row = nvml::rows()[i];
        const bool keyed =
            std::any_of(row.parameters.begin(), row.parameters.end(), [](auto& p) { return p.values_of != 0; });
        if (!row.device || keyed != keyed_by_answers) continue;
        askers_[i]->arrays = arrays;
        auto answers = askers_[i]->ask(gpu.device, nullptr);
        if (wanted.count(row.id)) arrays.emplace_back(row.id, array_of(answers));
        append(gpu.facts, std::move(answers));
      }
    }
    std::vector<nvml::nvmlFieldValue_t> fields;
    for (const auto& field : nvml::fields())
      for (uint32_t scope = 0; scope < field.scopes; ++scope) add_field(fields, field.id, scope);
    ask_fields(gpu, fields, gpu.facts);
  }

  // A few at a time: driver 580 leaves those at the end of a long list (500) as they were, and says success.
  void ask_fields(const Gpu& gpu, std::vector<nvml::nvmlFieldValue_t>& fields,
                  std::vector<control::NvmlAnswer>& answers) {
    for (size_t at = 0; at < fields.size(); at += kFieldsAtOnce) {
      const size_t count = std::min(kFieldsAtOnce, fields.size() - at);
      if (library_.field_values(gpu.device, int(count), &fields[at]) != nvml::NVML_SUCCESS) continue;
      for (size_t i = at; i < at + count; ++i) {
        // Even of a short list the library may leave some as they were, and then answers them when they are asked alone.
        if (fields[i].nvmlReturn == nvml::NVML_ERROR_UNKNOWN) library_.field_values(gpu.device, 1, &fields[i]);
        if (fields[i].nvmlReturn == nvml::NVML_ERROR_UNKNOWN) fields[i].nvmlReturn = nvml::NVML_ERROR_NOT_SUPPORTED;
        answers.push_back(answer_of(fields[i]));
      }
    }
  }

  static control::NvmlAnswer answer_of(const nvml::nvmlFieldValue_t& field) {
    control::NvmlAnswer answer{
        nvml::kFieldFunction, field.fieldId, field.scopeId, 0, 0, uint32_t(field.nvmlReturn), {}};
    if (answer.result != 0) return answer;
    nvml::FieldAnswer value{field.valueType, 0, 0};
    std::memcpy(&value.value, &field.value, sizeof value.value);
    answer.value.assign(reinterpret_cast<const char*>(&value), sizeof value);
    while (!answer.value.empty() && answer.value.back() == '\0') answer.value.pop_back();
    return answer;
  }

  NvmlLibrary library_;
  std::vector<Gpu> gpus_;
  std::vector<std::unique_ptr<Asker>> askers_;  // one per row, in the table's order
};

// Waits for bfserver to read: a report of a server with many GPUs is more than the socket takes at once.
Status send_report(int control, const control::MonitorReport& report) {
  for (;;) {
    Status sent = supervise::send(control, supervise::Kind::kReading, control::encode_MonitorReport(report));
    if (sent.code() != StatusCode::kExhausted) return sent;
    pollfd entry{control, POLLOUT, 0};
    poll(&entry, 1, 1000);
  }
}

}  // namespace

Status run_monitor(int control) {
  auto library = NvmlLibrary::load();
  if (!library.ok()) return library.status();
  Monitor monitor(*library);
  if (monitor.gpus() == 0) return {StatusCode::kUnavailable, "NVML shows no GPU"};
  bool known = false;
  for (;;) {
    auto message = supervise::receive(control);
    if (!message.ok()) return message.status();
    if (message->kind != supervise::Kind::kSample) continue;
    if (!known) {
      BF_RETURN_IF_ERROR(send_report(control, monitor.system()));
      for (size_t i = 0; i < monitor.gpus(); ++i) BF_RETURN_IF_ERROR(send_report(control, monitor.facts(i)));
    }
    known = true;
    for (size_t i = 0; i < monitor.gpus(); ++i) {
      auto report = monitor.sample(i);
      report.last = i + 1 == monitor.gpus();
      BF_RETURN_IF_ERROR(send_report(control, report));
    }
    // After the sample, and one GPU at a time: facts take long, and somebody may want the next sample in a second.
    if (const auto old = monitor.outdated()) BF_RETURN_IF_ERROR(send_report(control, monitor.facts(*old)));
  }
}

}  // namespace bf::server
