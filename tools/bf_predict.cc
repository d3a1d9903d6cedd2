// bf predict: will this network do for that program?
#include <memory>

#include "base/log.h"
#include "tools/bf.h"
#include "tools/predict.h"

namespace bf::tools {
namespace {

using nlohmann::json;

struct PredictOptions {
  std::string trace;
  double rtt_us = -1, gbit_s = 0;
  double skip_s = 0;
  bool as_json = false;
};

struct Line {
  std::string name;
  double rtt_us, gbit_s;
};

double bytes_per_us(double gbit_s) { return gbit_s * 1e9 / 8 / 1e6; }

int predict(const PredictOptions& options) {
  auto calls = read_trace(options.trace);
  if (!calls.ok()) return complain(calls.status().message()), 2;
  const double from_us = calls->front().begin_us + options.skip_s * 1e6;
  std::erase_if(*calls, [&](const TracedCall& call) { return call.begin_us < from_us; });
  if (calls->empty()) return complain("nothing is left of the trace behind --skip"), 2;
  std::vector<Line> lines{{"100 Gb/s, rack", 10, 100}, {"25 Gb/s, rack", 20, 25}, {"10 Gb/s, building", 50, 10}, {"1 Gb/s, building", 200, 1}, {"1 Gb/s, campus", 1000, 1}};
  if (options.rtt_us >= 0) lines = {{fmt::format("{:g} Gb/s", options.gbit_s), options.rtt_us, options.gbit_s}};

  const Network measured = network_of(*calls);
  const double local_us = play(*calls, measured, {});
  Table table({"NETWORK", "RTT US", "GBIT/S", "SECONDS", "OF LOCAL SPEED"});
  json all = json::array();
  for (const Line& line : lines) {
    const double us = play(*calls, measured, {line.rtt_us, bytes_per_us(line.gbit_s)});
    const double ratio = local_us / us;
    auto number = [](std::string text) { return Cell{std::move(text), Colour::kNone, true}; };
    table.add({{line.name}, number(fmt::format("{:g}", line.rtt_us)), number(fmt::format("{:g}", line.gbit_s)), number(fmt::format("{:.3f}", us / 1e6)),
               {fmt::format("{:.2f}", ratio), ratio > 0.9 ? Colour::kGreen : ratio > 0.6 ? Colour::kYellow : Colour::kRed, true}});
    all.push_back({{"rtt_us", line.rtt_us}, {"gbit_s", line.gbit_s}, {"seconds", us / 1e6}, {"ratio", ratio}});
  }
  const double traced_s = (calls->back().end_us - calls->front().begin_us) / 1e6;
  uint64_t round_trips = 0;
  double up = 0, down = 0;
  for (const TracedCall& call : *calls) round_trips += call.round_trips, up += call.bytes_up, down += call.bytes_down;
  if (options.as_json) {
    print(json{{"traced_seconds", traced_s}, {"local_seconds", local_us / 1e6}, {"round_trips", round_trips}, {"bytes_up", up}, {"bytes_down", down},
               {"traced_rtt_us", measured.rtt_us}, {"networks", all}});
    return 0;
  }
  printf("%zu calls in %.3f s: %llu round trips, %.1f MiB up, %.1f MiB down; without a network %.3f s\n", calls->size(),
         traced_s, (unsigned long long)round_trips, up / (1 << 20), down / (1 << 20), local_us / 1e6);
  print(table);
  return 0;
}

}  // namespace

void add_predict_command(Commands& commands) {
  auto options = std::make_shared<PredictOptions>();
  auto* sub = commands.add("predict", "What a traced program (BF_TRACE) would lose over other networks", [options] { return predict(*options); });
  sub->add_option("TRACE", options->trace, "The file that BF_TRACE named, of a run over a quick network")->required();
  auto* rtt = sub->add_option("--rtt", options->rtt_us, "Round-trip time")->type_name("US")->check(CLI::Range(0.0, 1e7));
  auto* bandwidth = sub->add_option("--bandwidth", options->gbit_s, "What the line carries")->type_name("GBIT_S")->check(CLI::Range(1e-6, 1e5));
  rtt->needs(bandwidth);
  bandwidth->needs(rtt);
  sub->add_option("--skip", options->skip_s, "Leave the start of the program out")->type_name("SECONDS")->check(CLI::Range(0.0, 1e7));
  sub->add_flag("--json", options->as_json, "For programs");
}

}  // namespace bf::tools
