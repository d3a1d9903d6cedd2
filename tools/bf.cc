// bf: looks at servers, and at what is borrowed from them. Answers go to standard output, as a table for people or, with
// --json, for programs; complaints go to standard error.
#include "tools/bf.h"

#include <unistd.h>

#include <set>

#include "base/log.h"
#include "tools/localhealth.h"
#include "tools/netperf.h"
#include "tools/servers.h"
#include "tools/session_perf.h"
#include "tools/smi.h"
#include "transport/rdma_health.h"

namespace bf::tools {
namespace {

using nlohmann::json;

constexpr const char* kFooter =
    "\nExamples:\n"
    "  bf list                        what can be borrowed, from all known servers\n"
    "  bf smi                         the GPUs at work: temperature, power, load, memory; under bfrun, those borrowed\n"
    "  bf health --server gpu7        is that server well, and if not, what to do\n"
    "  bf netperf gpu7                latency and bandwidth to it\n"
    "  bf predict trace.json          what the program that made it (BF_TRACE) would lose over other networks\n"
    "  bf request -n 2 -m 4096 --ttl 2h\n"
    "  bf client --lease ID -- ./program\n"
    "  bf release ID\n"
    "  bf token create alice --expires 90d        on the server: who may borrow\n"
    "\nServers come from --server, $BF_SERVERS, ~/.backfield/servers.conf or /etc/backfield/servers.conf.\n";

struct Options {
  ServerOptions where;
  std::string netperf_server;
  std::string netperf_transport;  // empty: the server itself, without a session
  bool as_json = false;
};

uint64_t mib(uint64_t bytes) { return bytes >> 20; }

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
                        : list.draining  ? (gpu.health_note.empty() ? "ending" : "out: " + gpu.health_note)
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
  auto answers = survey(servers, kAnswerTime);
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
  auto answers = survey(servers, kAnswerTime, {}, true);
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

// Adds one server's checks to the table and returns them as JSON; kFailed goes into `result` if one failed.
json add_checks(Table& table, const std::string& where, const std::vector<control::HealthCheck>& checks, int* result) {
  constexpr const char* kGrades[] = {"pass", "marginal", "fail"};
  constexpr Colour kColours[] = {Colour::kGreen, Colour::kYellow, Colour::kRed};
  json all = json::array();
  for (auto& check : checks) {
    uint32_t grade = std::min(check.grade, uint32_t(control::Grade::kFail));
    if (grade == uint32_t(control::Grade::kFail)) *result = kFailed;
    all.push_back({{"name", check.name}, {"grade", kGrades[grade]}, {"note", check.note}});
    table.add({{where}, {printable(check.name)}, {kGrades[grade], kColours[grade]}, {printable(check.note)}});
  }
  return all;
}

int health(const Options& options, const std::vector<transport::Address>& servers) {
  Table table({"SERVER", "CHECK", "GRADE", "NOTE"});
  json all = json::array();
  int result = 0;
  for (auto& answer : survey(servers, kAnswerTime)) {
    auto body = answer.status.ok() ? answer.remote->ask(Opcode::kHealth, control::encode_HealthRequest({}), control::deadline_in(kAnswerTime))
                                   : Result<std::string>(answer.status);
    auto reply = body.ok() ? control::decode_HealthReply(control::as_bytes(*body)) : body.status();
    if (!reply.ok()) {
      result = kFailed;
      complain(reply.status().message());
      all.push_back(error_json(answer.server, reply.status()));
      continue;
    }
    const std::string name = answer.server.to_string();
    all.push_back({{"address", name}, {"checks", add_checks(table, name, reply->checks, &result)}});
  }
  if (options.as_json)
    print(json{{"servers", all}});
  else
    print(table);
  return result;
}

int local_health(const Options& options) {
  Table table({"WHERE", "CHECK", "GRADE", "NOTE"});
  int result = 0;
  json checks = add_checks(table, "here", check_local_health(), &result);
  if (options.as_json)
    print(json{{"checks", checks}});
  else
    print(table);
  return result;
}

// What keeps this host from RDMA, in words.
bool complain_about_rdma() {
  bool failed = false;
  for (auto& check : transport::check_rdma()) {
    if (check.grade == transport::RdmaGrade::kPass) continue;
    complain(check.name + ": " + check.note);
    failed |= check.grade == transport::RdmaGrade::kFail;
  }
  return failed;
}

int netperf_session(const Options& options) {
  const std::string& transport = options.netperf_transport;
  if (transport == "rdma" && complain_about_rdma()) return kFailed;
  RequestOptions request;
  request.where.servers = {options.netperf_server};
  request.memory_mib = kSessionPerfMiB;
  request.timeout_s = 0;
  auto borrowed = request_gpus("bf", request, "netperf", false, 0);
  if (!borrowed.ok()) return complain(borrowed.status().message()), status_of(borrowed.status());
  if (transport == "rdma" && borrowed->lease.encrypt) return complain(kNoPlainSessions), kFailed;
  auto result = measure_session(*borrowed, transport);
  if (!result.ok()) return complain(result.status().message()), kFailed;
  if (options.as_json) {
    print(json{{"address", options.netperf_server},
               {"transport", transport},
               {"min_us", result->min_us},
               {"median_us", result->median_us},
               {"p99_us", result->p99_us},
               {"posts_per_s", result->posts_per_s},
               {"to_gpu_mib_s", result->to_gpu_mib_s},
               {"from_gpu_mib_s", result->from_gpu_mib_s}});
    return 0;
  }
  auto number = [](double value) { return Cell{fmt::format("{:.1f}", value), Colour::kNone, true}; };
  Table table({"SESSION OVER", "MIN US", "MEDIAN US", "P99 US", "POSTS/S", "TO GPU MIB/S", "FROM GPU MIB/S"});
  table.add({{transport}, number(result->min_us), number(result->median_us), number(result->p99_us),
             {fmt::format("{:.0f}", result->posts_per_s), Colour::kNone, true}, number(result->to_gpu_mib_s), number(result->from_gpu_mib_s)});
  print(table);
  return 0;
}

int netperf(const Options& options) {
  if (!options.netperf_transport.empty()) return netperf_session(options);
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

int version(const Options& options) {
  if (options.as_json)
    print(json{{"version", BF_VERSION}, {"protocol", control::kProtocolVersion}});
  else
    printf("bf %s, protocol %u\n", BF_VERSION, control::kProtocolVersion);
  return 0;
}

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Looks at Backfield servers, and at what is borrowed from them.", "bf");
  app.footer(kFooter);
  app.set_help_flag("-h,--help", "This text");
  app.set_version_flag("--version", "bf " BF_VERSION);
  app.require_subcommand(1);
  Commands commands{app};
  auto with_json = [&](CLI::App* sub) {
    sub->add_flag("--json", options.as_json, "For programs");
    return sub;
  };
  auto on_servers = [&](int (*command)(const Options&, const std::vector<transport::Address>&)) {
    return [&options, command] {
      auto servers = find_servers(options.where.servers, options.where.servers_file);
      if (!servers.ok()) return complain(servers.status().message()), 2;
      return command(options, *servers);
    };
  };
  describe(*with_json(commands.add("list", "What can be borrowed", on_servers(list))), options.where);
  describe(*with_json(commands.add("health", "Whether servers are well, and what to do if not", on_servers(health))),
           options.where);
  with_json(commands.add("localhealth", "Whether this machine is well as a client", [&] { return local_health(options); }));
  describe(*with_json(commands.add("smi", "The GPUs at work; under bfrun, those borrowed",
                                   [&options, pool = on_servers(smi)] {
                                     bool named = !options.where.servers.empty() || !options.where.servers_file.empty();
                                     if (under_lease() && !named) return lease_smi(options.as_json, ::isatty(STDOUT_FILENO));
                                     return pool();
                                   })),
           options.where);
  add_lease_commands(commands);
  add_token_commands(commands);
  add_admin_commands(commands);
  add_predict_command(commands);
  add_cluster_commands(commands);
  auto* perf = with_json(commands.add("netperf", "Latency and bandwidth to a server", [&] { return netperf(options); }));
  perf->add_option("SERVER", options.netperf_server, "HOST[:PORT]")->required();
  perf->add_option("--transport", options.netperf_transport, "Of a session over auto, tcp, shm or rdma: borrows 1 GiB of a GPU for some seconds")
      ->check(CLI::IsMember({"auto", "tcp", "shm", "rdma"}))
      ->type_name("NAME");
  with_json(commands.add("version", "Version of this program", [&] { return version(options); }));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    fprintf(stderr, "bf: %s\nType for example: bf list --server HOST   (bf --help says more)\n", error.what());
    return 2;
  }
  for (auto& [sub, action] : commands.actions)
    if (sub->parsed()) return action();
  return 2;
}

}  // namespace

void print(const Table& table) { fputs(table.render(::isatty(STDOUT_FILENO)).c_str(), stdout); }
void print(const json& value) { puts(value.dump(2).c_str()); }
void complain(const std::string& text) { fprintf(stderr, "bf: %s\n", text.c_str()); }

std::string text_of(const json& entry, const char* key) { return printable(entry.value(key, std::string())); }

std::vector<Answer> reachable(const ServerOptions& options) {
  std::vector<Answer> answers;
  auto servers = find_servers(options.servers, options.servers_file);
  if (!servers.ok()) return complain(servers.status().message()), answers;
  for (auto& answer : survey(*servers, kAnswerTime)) {
    if (answer.status.ok())
      answers.push_back(std::move(answer));
    else
      complain(answer.status.message());
  }
  return answers;
}

ServerOptions or_own(ServerOptions options) {
  if (options.servers.empty() && options.servers_file.empty()) options.servers = {"unix:backfield.56001"};
  return options;
}

std::vector<Answer> one_of_each_pool(std::vector<Answer> answers) {
  std::set<std::string> seen;
  std::erase_if(answers, [&](auto& answer) { return !answer.list.pool.empty() && !seen.insert(answer.list.pool).second; });
  return answers;
}

Result<json> ask(const Answer& server, const std::vector<std::string>& words, std::string_view file, std::chrono::milliseconds time) {
  auto text = server.remote->manage(words, control::deadline_in(time), file);
  if (!text.ok()) return Status{text.status().code(), server.server.to_string() + ": " + text.status().message()};
  json answer = json::parse(*text, nullptr, false);
  if (!answer.is_object()) return Status{StatusCode::kInvalid, server.server.to_string() + ": the answer is no JSON"};
  return answer;
}

int bf_main(int argc, char** argv) { return main(argc, argv); }

}  // namespace bf::tools

int main(int argc, char** argv) { return bf::tools::bf_main(argc, argv); }
