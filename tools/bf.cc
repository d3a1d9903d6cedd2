// bf: looks at servers. `bf list`, `bf smi`, `bf health`, `bf netperf SERVER`, `bf version`. Answers go to standard output, as a
// table for people or, with --json, for programs; complaints go to standard error.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "tools/netperf.h"
#include "tools/servers.h"
#include "tools/smi.h"
#include "tools/table.h"

namespace bf::tools {
namespace {

using nlohmann::json;

constexpr auto kAnswerTime = std::chrono::milliseconds(5000);
constexpr int kFailed = 1;  // no server answered, or one is ill
constexpr const char* kFooter =
    "\nExamples:\n"
    "  bf list                        what can be borrowed, from all known servers\n"
    "  bf smi                         the GPUs at work: temperature, power, load, memory; under bfrun, those borrowed\n"
    "  bf health --server gpu7        is that server well, and if not, what to do\n"
    "  bf netperf gpu7                latency and bandwidth to it\n"
    "\nServers come from --server, $BF_SERVERS, ~/.backfield/servers.conf or /etc/backfield/servers.conf.\n";

struct Options {
  std::vector<std::string> servers;
  std::string servers_file;
  std::string netperf_server;
  bool as_json = false;
};

uint64_t mib(uint64_t bytes) { return bytes >> 20; }

void print(const Table& table) { fputs(table.render(::isatty(STDOUT_FILENO)).c_str(), stdout); }
void print(const json& value) { puts(value.dump(2).c_str()); }
void complain(const std::string& text) { fprintf(stderr, "bf: %s\n", text.c_str()); }

json error_json(const transport::Address& server, const Status& status) {
  return {{"address", server.to_string()}, {"error", status.message()}};
}

json list_json(const Answer& answer) {
  if (!answer.status.ok()) return error_json(answer.server, answer.status);
  const control::ListReply& list = answer.list;
  json gpus = json::array();
  for (auto& gpu : list.gpus)
    gpus.push_back({{"index", gpu.index},
                    {"name", gpu.name},
                    {"uuid", gpu.uuid},
                    {"memory_mib", mib(gpu.memory_bytes)},
                    {"free_mib", mib(gpu.free_bytes)},
                    {"context_mib", mib(gpu.context_bytes)},
                    {"leases", gpu.leases},
                    {"compute_capability", fmt::format("{}.{}", gpu.compute_major, gpu.compute_minor)},
                    {"pci_bus_id", gpu.pci_bus_id},
                    {"healthy", gpu.healthy},
                    {"health_note", gpu.health_note}});
  return {{"address", answer.server.to_string()},
          {"name", list.server_name},
          {"version", list.version},
          {"driver_version", list.driver_version},
          {"software", list.software},
          {"draining", list.draining},
          {"sessions", list.sessions},
          {"transports", list.transports},
          {"gpus", gpus}};
}

void add_rows(Table& table, const Answer& answer) {
  const control::ListReply& list = answer.list;
  for (auto& gpu : list.gpus) {
    std::string state = !gpu.healthy     ? "ill: " + gpu.health_note
                        : list.draining  ? "ending"
                        : gpu.leases > 0 ? "in use"
                                         : "free";
    Colour colour = !gpu.healthy                           ? Colour::kRed
                    : gpu.free_bytes == 0 || list.draining ? Colour::kYellow
                                                           : Colour::kGreen;
    table.add({{answer.server.to_string()},
               {std::to_string(gpu.index), Colour::kNone, true},
               {printable(gpu.name)},
               {std::to_string(mib(gpu.memory_bytes)), Colour::kNone, true},
               {std::to_string(mib(gpu.free_bytes)), Colour::kNone, true},
               {std::to_string(gpu.leases), Colour::kNone, true},
               {printable(state), colour}});
  }
}

int list(const Options& options, const std::vector<transport::Address>& servers) {
  auto answers = ask_servers(servers, kAnswerTime);
  Table table({"SERVER", "GPU", "NAME", "MIB", "FREE", "LEASES", "STATE"});
  json all = json::array();
  bool any = false;
  for (auto& answer : answers) {
    any |= answer.status.ok();
    all.push_back(list_json(answer));
    if (answer.status.ok())
      add_rows(table, answer);
    else
      complain(answer.status.message());
  }
  if (options.as_json)
    print(json{{"servers", all}});
  else if (any)
    print(table);
  return any ? 0 : kFailed;
}

int smi(const Options& options, const std::vector<transport::Address>& servers) {
  auto answers = ask_servers(servers, kAnswerTime, true);
  bool any = false;
  for (auto& answer : answers) {
    any |= answer.status.ok();
    if (!answer.status.ok()) complain(answer.status.message());
  }
  if (options.as_json)
    print(pool_json(answers));
  else if (any)
    fputs(pool_text(answers, ::isatty(STDOUT_FILENO)).c_str(), stdout);
  return any ? 0 : kFailed;
}

int health(const Options& options, const std::vector<transport::Address>& servers) {
  constexpr const char* kGrades[] = {"pass", "marginal", "fail"};
  constexpr Colour kColours[] = {Colour::kGreen, Colour::kYellow, Colour::kRed};
  Table table({"SERVER", "CHECK", "GRADE", "NOTE"});
  json all = json::array();
  int result = 0;
  for (auto& server : servers) {
    auto body = ask(server, Opcode::kHealth, control::encode_HealthRequest({}), kAnswerTime);
    auto reply = body.ok() ? control::decode_HealthReply(control::as_bytes(*body)) : body.status();
    if (!reply.ok()) {
      result = kFailed;
      complain(reply.status().message());
      all.push_back(error_json(server, reply.status()));
      continue;
    }
    json checks = json::array();
    for (auto& check : reply->checks) {
      uint32_t grade = std::min(check.grade, uint32_t(control::Grade::kFail));
      if (grade == uint32_t(control::Grade::kFail)) result = kFailed;
      checks.push_back({{"name", check.name}, {"grade", kGrades[grade]}, {"note", check.note}});
      table.add(
          {{server.to_string()}, {printable(check.name)}, {kGrades[grade], kColours[grade]}, {printable(check.note)}});
    }
    all.push_back({{"address", server.to_string()}, {"checks", checks}});
  }
  if (options.as_json)
    print(json{{"servers", all}});
  else
    print(table);
  return result;
}

int netperf(const Options& options) {
  auto server = transport::parse_address(options.netperf_server, kDefaultPort);
  if (!server.ok()) return complain(server.status().message()), 2;
  std::vector<transport::Address> paths{*server};
  if (auto local = local_path(*server); !local.unix_name.empty()) paths.push_back(local);
  Table table({"PATH", "MIN US", "MEDIAN US", "P99 US", "TO SERVER MIB/S", "FROM SERVER MIB/S", "LATENCY"});
  json all = json::array();
  for (auto& path : paths) {
    auto result = measure(path);
    if (!result.ok()) return complain(result.status().message()), kFailed;
    bool good = result->median_us <= kLatencyTargetUs;
    auto number = [](double value) { return Cell{fmt::format("{:.1f}", value), Colour::kNone, true}; };
    table.add({{result->path},
               number(result->min_us),
               number(result->median_us),
               number(result->p99_us),
               number(result->to_server_mib_s),
               number(result->from_server_mib_s),
               {fmt::format("{} the {:.0f} us target", good ? "within" : "above", kLatencyTargetUs),
                good ? Colour::kGreen : Colour::kYellow}});
    all.push_back({{"path", result->path},
                   {"min_us", result->min_us},
                   {"median_us", result->median_us},
                   {"p99_us", result->p99_us},
                   {"to_server_mib_s", result->to_server_mib_s},
                   {"from_server_mib_s", result->from_server_mib_s},
                   {"target_us", kLatencyTargetUs},
                   {"within_target", good}});
  }
  if (options.as_json)
    print(json{{"address", server->to_string()}, {"paths", all}});
  else
    print(table);
  return 0;
}

int run(const CLI::App& app, const Options& options) {
  if (app.got_subcommand("version")) {
    if (options.as_json)
      print(json{{"version", BF_VERSION}, {"protocol", control::kProtocolVersion}});
    else
      printf("bf %s, protocol %u\n", BF_VERSION, control::kProtocolVersion);
    return 0;
  }
  if (app.got_subcommand("netperf")) return netperf(options);
  bool named = !options.servers.empty() || !options.servers_file.empty();
  if (app.got_subcommand("smi") && under_lease() && !named) return lease_smi(options.as_json, ::isatty(STDOUT_FILENO));
  auto servers = find_servers(options.servers, options.servers_file);
  if (!servers.ok()) return complain(servers.status().message()), 2;
  if (app.got_subcommand("smi")) return smi(options, *servers);
  return app.got_subcommand("list") ? list(options, *servers) : health(options, *servers);
}

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Looks at Backfield servers.", "bf");
  app.footer(kFooter);
  app.set_help_flag("-h,--help", "This text");
  app.set_version_flag("--version", "bf " BF_VERSION);
  app.require_subcommand(1);
  auto with_json = [&](CLI::App* sub) {
    sub->add_flag("--json", options.as_json, "For programs");
    return sub;
  };
  for (CLI::App* sub : {with_json(app.add_subcommand("list", "What can be borrowed")),
                        with_json(app.add_subcommand("smi", "The GPUs at work; under bfrun, those borrowed")),
                        with_json(app.add_subcommand("health", "Whether servers are well, and what to do if not"))}) {
    sub->add_option("--server", options.servers, "This server; repeatable")
        ->expected(1, 1024)
        ->allow_extra_args(false)
        ->type_name("HOST[:PORT]");
    sub->add_option("--servers", options.servers_file, "The servers in this file")->type_name("FILE");
  }
  with_json(app.add_subcommand("netperf", "Latency and bandwidth to a server"))
      ->add_option("SERVER", options.netperf_server, "HOST[:PORT]")
      ->required();
  with_json(app.add_subcommand("version", "Version of this program"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    fprintf(stderr, "bf: %s\nType for example: bf list --server HOST   (bf --help says more)\n", error.what());
    return 2;
  }
  return run(app, options);
}

}  // namespace
}  // namespace bf::tools

int main(int argc, char** argv) { return bf::tools::main(argc, argv); }
