#include "tools/smi.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "client/nvml/lease_view.h"
#include "tools/table.h"

namespace bf::tools {
namespace {

using nlohmann::json;

constexpr double kWarm = 80, kHot = 90;  // degrees Celsius, where colours begin
constexpr double kNearlyFull = 0.95;

uint64_t mib(uint64_t bytes) { return bytes >> 20; }

Cell right(std::string text, Colour colour = Colour::kNone) { return {std::move(text), colour, true}; }

Colour heat(double celsius) {
  return celsius >= kHot ? Colour::kRed : celsius >= kWarm ? Colour::kYellow : Colour::kNone;
}
Colour fullness(uint64_t used, uint64_t total) {
  return total > 0 && double(used) >= kNearlyFull * double(total) ? Colour::kYellow : Colour::kNone;
}
Colour load(uint32_t percent) { return percent > 0 ? Colour::kGreen : Colour::kNone; }

// One number per GPU, each in `width` characters; "-" where there is none.
std::string row_of(const std::vector<control::Gpu>& gpus, int width, uint64_t (*value)(const control::Gpu&),
                   bool sampled) {
  std::string text;
  for (auto& gpu : gpus) {
    text += fmt::format("{}{:>{}}", text.empty() ? "" : " ", sampled && !gpu.sampled ? "-" : std::to_string(value(gpu)),
                        width);
  }
  return text;
}

std::string models(const std::vector<control::Gpu>& gpus) {
  if (gpus.empty()) return "none";
  bool same = std::all_of(gpus.begin(), gpus.end(), [&](auto& gpu) { return gpu.name == gpus[0].name; });
  return fmt::format("{} x {}", gpus.size(), same ? printable(gpus[0].name) : "mixed");
}

void add_server(Table& table, const Answer& answer) {
  auto& gpus = answer.list.gpus;
  uint32_t hottest = 0, ill = 0, leases = 0;
  uint64_t watts = 0, total = 0;
  for (auto& gpu : gpus) {
    hottest = std::max(hottest, gpu.temperature_c);
    ill += !gpu.healthy;
    leases = std::max(leases, gpu.leases);
    watts += gpu.power_mw / 1000;
    total = std::max(total, gpu.memory_bytes);
  }
  table.add(
      {{answer.server.to_string()},
       {ill > 0 ? fmt::format("{}, {} ill", models(gpus), ill) : models(gpus), ill > 0 ? Colour::kRed : Colour::kNone},
       right(row_of(
           gpus, 3, [](auto& gpu) { return uint64_t(gpu.gpu_percent); }, true)),
       right(row_of(
           gpus, 3, [](auto& gpu) { return gpu.used_bytes >> 30; }, false)),
       right(std::to_string(total >> 30)),
       right(std::to_string(hottest), heat(hottest)),
       right(std::to_string(watts)),
       right(std::to_string(answer.list.sessions))});
}

void add_gpus(Table& table, const Answer& answer) {
  for (auto& gpu : answer.list.gpus) {
    auto sampled = [&](std::string text) { return gpu.sampled ? std::move(text) : std::string("-"); };
    table.add({{answer.server.to_string()},
               right(std::to_string(gpu.index)),
               {printable(gpu.name), gpu.healthy ? Colour::kNone : Colour::kRed},
               right(sampled(std::to_string(gpu.temperature_c)), heat(gpu.temperature_c)),
               right(sampled(fmt::format("{} / {}", gpu.power_mw / 1000, gpu.power_limit_mw / 1000))),
               right(sampled(std::to_string(gpu.gpu_percent)), load(gpu.gpu_percent)),
               right(fmt::format("{} / {}", mib(gpu.used_bytes), mib(gpu.memory_bytes)),
                     fullness(gpu.used_bytes, gpu.memory_bytes)),
               right(std::to_string(gpu.leases))});
  }
}

json sampled_json(const control::Gpu& gpu) {
  json value = {{"index", gpu.index},
                {"name", gpu.name},
                {"uuid", gpu.uuid},
                {"pci_bus_id", gpu.pci_bus_id},
                {"memory_mib", mib(gpu.memory_bytes)},
                {"used_mib", mib(gpu.used_bytes)},
                {"leases", gpu.leases},
                {"healthy", gpu.healthy}};
  auto add = [&](const char* name, uint32_t number) { value[name] = gpu.sampled ? json(number) : json(nullptr); };
  add("temperature_c", gpu.temperature_c);
  add("power_mw", gpu.power_mw);
  add("power_limit_mw", gpu.power_limit_mw);
  add("gpu_percent", gpu.gpu_percent);
  add("memory_percent", gpu.memory_percent);
  return value;
}

using Devices = std::vector<std::shared_ptr<const client::LeaseView::Device>>;

std::optional<uint32_t> number(const client::LeaseView::Device& device, const char* function, size_t offset = 0) {
  return device.answers->number<uint32_t>(function, {}, offset);
}

std::string text(std::optional<uint32_t> value, uint32_t unit = 1) {
  return value ? std::to_string(*value / unit) : "-";
}

void print_lease(const Devices& devices, bool coloured) {
  Table gpus({"GPU", "NAME", "BUS", "TEMP C", "POWER W", "UTIL %", "MEMORY MIB"});
  Table processes({"GPU", "PID", "PROCESS", "MIB"});
  bool any = false;
  for (size_t i = 0; i < devices.size(); i++) {
    auto& device = *devices[i];
    auto& books = device.books;
    const auto celsius = number(device, "nvmlDeviceGetTemperature");
    const auto percent = number(device, "nvmlDeviceGetUtilizationRates");
    gpus.add({right(std::to_string(i)),
              {printable(books.name)},
              {printable(books.pci_bus_id)},
              right(text(celsius), heat(celsius.value_or(0))),
              right(text(number(device, "nvmlDeviceGetPowerUsage"), 1000) + " / " +
                    text(number(device, "nvmlDeviceGetEnforcedPowerLimit"), 1000)),
              right(text(percent), load(percent.value_or(0))),
              right(fmt::format("{} / {}", mib(books.used_bytes), mib(books.memory_bytes)),
                    fullness(books.used_bytes, books.memory_bytes))});
    for (auto& process : books.processes) {
      any = true;
      processes.add({right(std::to_string(i)),
                     right(std::to_string(process.pid)),
                     {printable(process.name)},
                     right(std::to_string(mib(process.used_bytes)))});
    }
  }
  fputs(gpus.render(coloured).c_str(), stdout);
  if (any) printf("\n%s", processes.render(coloured).c_str());
}

json lease_json(const Devices& devices) {
  json gpus = json::array();
  for (size_t i = 0; i < devices.size(); i++) {
    auto& device = *devices[i];
    json processes = json::array();
    for (auto& process : device.books.processes)
      processes.push_back({{"pid", process.pid}, {"name", process.name}, {"used_mib", mib(process.used_bytes)}});
    json gpu = {{"index", i},
                {"name", device.books.name},
                {"uuid", device.books.uuid},
                {"pci_bus_id", device.books.pci_bus_id},
                {"memory_mib", mib(device.books.memory_bytes)},
                {"used_mib", mib(device.books.used_bytes)},
                {"processes", processes}};
    auto add = [&](const char* name, const char* function, size_t offset = 0) {
      auto value = number(device, function, offset);
      gpu[name] = value ? json(*value) : json(nullptr);
    };
    add("temperature_c", "nvmlDeviceGetTemperature");
    add("power_mw", "nvmlDeviceGetPowerUsage");
    add("power_limit_mw", "nvmlDeviceGetEnforcedPowerLimit");
    add("gpu_percent", "nvmlDeviceGetUtilizationRates");
    add("memory_percent", "nvmlDeviceGetUtilizationRates", sizeof(uint32_t));
    gpus.push_back(std::move(gpu));
  }
  return {{"gpus", gpus}};
}

Result<Devices> read_lease() {
  auto settings = client::AttachSettings::from_environment();
  if (!settings.ok()) return settings.status();
  auto view = client::LeaseView::open(std::move(*settings));
  if (!view.ok()) return view.status();
  Devices devices;
  for (size_t i = 0; i < (*view)->devices(); i++) {
    auto device = (*view)->device(i, client::LeaseView::Want::kSample);
    if (!device.ok()) return device.status();
    devices.push_back(std::move(*device));
  }
  return devices;
}

}  // namespace

std::string pool_text(const std::vector<Answer>& answers, bool coloured) {
  size_t count = 0;
  for (auto& answer : answers) count += answer.status.ok() ? answer.list.gpus.size() : 0;
  const bool detailed = count <= kGpusInDetail;
  Table table(
      detailed
          ? std::vector<std::string>{"SERVER", "GPU", "NAME", "TEMP C", "POWER W", "UTIL %", "MEMORY MIB", "LEASES"}
          : std::vector<std::string>{"SERVER", "GPUS", "UTIL %", "USED GIB", "OF", "TEMP C", "POWER W", "SESSIONS"});
  for (auto& answer : answers)
    if (answer.status.ok()) detailed ? add_gpus(table, answer) : add_server(table, answer);
  return table.render(coloured);
}

json pool_json(const std::vector<Answer>& answers) {
  json servers = json::array();
  for (auto& answer : answers) {
    if (!answer.status.ok()) {
      servers.push_back({{"address", answer.server.to_string()}, {"error", answer.status.message()}});
      continue;
    }
    json gpus = json::array();
    for (auto& gpu : answer.list.gpus) gpus.push_back(sampled_json(gpu));
    servers.push_back({{"address", answer.server.to_string()}, {"name", answer.list.server_name}, {"gpus", gpus}});
  }
  return {{"servers", servers}};
}

bool under_lease() {
  const char* lease = std::getenv("BF_LEASE");
  return lease != nullptr && *lease != '\0';
}

int lease_smi(bool as_json, bool coloured) {
  auto devices = read_lease();
  if (!devices.ok()) {
    fprintf(stderr, "bf: %s\n", devices.status().message().c_str());
    return 1;
  }
  if (as_json)
    puts(lease_json(*devices).dump(2).c_str());
  else
    print_lease(*devices, coloured);
  return 0;
}

}  // namespace bf::tools
