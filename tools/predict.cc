#include "tools/predict.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

namespace bf::tools {
namespace {

constexpr double kBulkBytes = 1 << 20;  // transfers that tell what a line carries

bool synchronises(const std::string& name) {
  return name.find("Synchronize") != std::string::npos || name.find("Query") != std::string::npos || name == "cuMemcpyDtoH_v2" ||
         name == "cuMemcpyHtoD_v2" || name == "cuMemcpy" || name == "cuCtxDestroy_v2";
}

// The trace is a file like any other: what is not there, or is something else, counts as 0.
double number(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : 0;
}

double transfer_us(double bytes, const Network& network) {
  return network.bytes_per_us > 0 ? bytes / network.bytes_per_us : 0;
}

}  // namespace

Result<std::vector<TracedCall>> read_trace(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Status(StatusCode::kInvalid, "cannot read " + path);
  auto events = nlohmann::json::parse(file, nullptr, false);
  if (!events.is_array()) return Status(StatusCode::kInvalid, path + " is not a trace; make one with BF_TRACE=" + path + " bfrun ...");
  std::map<int64_t, std::vector<TracedCall>> processes;
  for (const auto& event : std::as_const(events)) {
    if (!event.is_object() || !event.contains("args") || !event["args"].is_object() || !event["args"].contains("round_trips")) continue;
    const auto& arguments = event["args"];
    TracedCall call;
    call.begin_us = number(event, "ts");
    call.end_us = call.begin_us + number(event, "dur");
    call.wait_us = number(arguments, "wait_us");
    call.bytes_up = number(arguments, "bytes_up");
    call.bytes_down = number(arguments, "bytes_down");
    call.round_trips = uint32_t(number(arguments, "round_trips"));
    call.synchronises = call.round_trips > 0 && event.contains("name") && event["name"].is_string() && synchronises(event["name"]);
    processes[int64_t(number(event, "pid"))].push_back(call);
  }
  if (processes.empty()) return Status(StatusCode::kInvalid, path + " names no call that went to a server");
  auto most = std::max_element(processes.begin(), processes.end(), [](auto& a, auto& b) { return a.second.size() < b.second.size(); });
  std::stable_sort(most->second.begin(), most->second.end(), [](auto& a, auto& b) { return a.begin_us < b.begin_us; });
  return std::move(most->second);
}

Network network_of(const std::vector<TracedCall>& calls) {
  std::vector<double> waits;
  Network network;
  for (const TracedCall& call : calls) {
    if (call.round_trips > 0) waits.push_back(call.wait_us / call.round_trips);
    const double bytes = std::max(call.bytes_up, call.bytes_down);
    if (bytes >= kBulkBytes && call.wait_us > 0) network.bytes_per_us = std::max(network.bytes_per_us, bytes / call.wait_us);
  }
  if (waits.empty()) return network;
  const auto quick = waits.begin() + long(waits.size() / 20);  // some are cut short by luck, none by the network
  std::nth_element(waits.begin(), quick, waits.end());
  network.rtt_us = *quick;
  return network;
}

double play(const std::vector<TracedCall>& calls, const Network& measured, const Network& network) {
  double now = 0, line_up = 0, line_down = 0;      // replayed: the program, and when each way of the line is free
  double first = -1, last = 0, gpu = 0;            // arrivals since the last synchronisation; when the GPU is through
  double was_first = -1, was_gpu = 0, was_end = 0;  // the same as traced
  for (const TracedCall& call : calls) {
    // Between calls, and within them while it does not wait, the program takes as long as it did.
    if (was_end > 0) now += std::max(0.0, call.begin_us - was_end);
    now += std::max(0.0, call.end_us - call.begin_us - call.wait_us);
    was_end = std::max(was_end, call.end_us);

    line_up = std::max(line_up, now) + transfer_us(call.bytes_up, network);
    const double arrival = line_up + network.rtt_us / 2;
    const double was_arrival = call.begin_us + measured.rtt_us / 2 + transfer_us(call.bytes_up, measured);
    if (first < 0) first = arrival, was_first = was_arrival;
    last = std::max(last, arrival);
    if (call.round_trips == 0) {
      if (call.wait_us > 0) now = std::max(now, line_up);  // it was held until its bytes had left
      continue;
    }
    // The part of the wait that the network does not explain is the server's.
    const double down = transfer_us(call.bytes_down, measured);
    const double served = call.wait_us - measured.rtt_us * call.round_trips - transfer_us(call.bytes_up, measured) - down;
    double done = arrival + std::max(0.0, served);
    if (call.synchronises) {
      const double was_done = call.end_us - measured.rtt_us / 2 - down;
      const double work = std::max(0.0, was_done - std::max(was_first, was_gpu));
      gpu = std::max(std::max(first, gpu) + work, last);
      was_gpu = was_done;
      done = gpu;
      first = was_first = -1;
    }
    done += network.rtt_us * (call.round_trips - 1);
    line_down = std::max(line_down, done) + transfer_us(call.bytes_down, network);
    now = std::max(now, line_down + network.rtt_us / 2);
  }
  return now;
}

}  // namespace bf::tools
