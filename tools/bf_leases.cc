// bf request, client, release, leases, kill: leases that outlive one program.
#include "base/log.h"
#include "tools/bf.h"
#include "tools/program.h"

namespace bf::tools {
namespace {

using nlohmann::json;

struct LeaseOptions {
  RequestOptions request;
  ServerOptions where;
  std::string ttl = "0";
  std::string lease;
  std::string transport = "auto";
  std::vector<std::string> command;
  bool as_json = false;
};

int request(const LeaseOptions& options) {
  auto ttl = parse_seconds(options.ttl);
  if (!ttl) return complain("--ttl is a time such as 90s, 30m, 2h or 1d, not '" + options.ttl + "'"), 2;
  auto borrowed = request_gpus("bf", options.request, "bf request", true, *ttl * 1000);
  if (!borrowed.ok()) return complain(borrowed.status().message()), status_of(borrowed.status());
  const std::string id = printable(borrowed->lease.lease_id);
  if (!options.as_json) return puts(id.c_str()), 0;
  json gpus = json::array();
  for (auto& partition : borrowed->lease.partitions)
    gpus.push_back({{"index", partition.gpu_index}, {"name", partition.name}, {"uuid", partition.uuid}, {"memory_mib", partition.memory_bytes >> 20}});
  print(json{{"lease", id}, {"server", borrowed->remote->server().to_string()}, {"gpus", gpus}});
  return 0;
}

// The server that knows the lease lets us in.
Result<Borrowed> hold(const LeaseOptions& options) {
  Status why{StatusCode::kUnavailable, "no server answers"};
  for (auto& answer : reachable(options.where)) {
    auto body = answer.remote->ask(Opcode::kHold, control::encode_HoldRequest({options.lease}), control::deadline_in(kAnswerTime));
    auto lease = body.ok() ? control::decode_LeaseReply(control::as_bytes(*body)) : body.status();
    if (!lease.ok()) {
      why = lease.status();
      continue;
    }
    if (lease->status == 0) return Borrowed{printable(answer.list.server_name), answer.remote, std::move(*lease)};
    why = control::to_status(lease->status, printable(lease->message));
    if (why.code() != StatusCode::kDenied) break;
  }
  return why;
}

int client(const LeaseOptions& options) {
  if (options.command.empty()) return complain("name the program to run: bf client --lease ID -- PROGRAM"), 2;
  if (int status = check_command("bf", options.command); status != 0) return status;
  auto borrowed = hold(options);
  if (!borrowed.ok()) return complain(borrowed.status().message()), kBackfieldFailed;
  return run_on("bf", *borrowed, options.transport, options.command);
}

// release and kill: by the server that knows the lease.
int end(const LeaseOptions& options, const char* verb) {
  Status why{StatusCode::kUnavailable, "no server answers"};
  for (auto& answer : reachable(options.where)) {
    auto done = answer.remote->manage({verb, options.lease}, control::deadline_in(kAnswerTime));
    if (done.ok()) return 0;
    why = done.status();
  }
  complain(why.message());
  return kFailed;
}

std::string duration(int64_t seconds) {
  if (seconds < 120) return fmt::format("{} s", seconds);
  if (seconds < 7200) return fmt::format("{} min", seconds / 60);
  return seconds < 172'800 ? fmt::format("{} h", seconds / 3600) : fmt::format("{} d", seconds / 86'400);
}

void add_row(Table& table, const std::string& server, const json& lease) {
  std::string gpus;
  for (auto& gpu : lease.value("gpus", json::array()))
    gpus += fmt::format("{}{}:{}", gpus.empty() ? "" : " ", gpu.value("index", 0), gpu.value("memory_mib", 0));
  table.add({{text_of(lease, "id")},
             {server},
             {text_of(lease, "client")},
             {text_of(lease, "host")},
             {text_of(lease, "program")},
             {gpus},
             {std::to_string(lease.value("sessions", 0)), Colour::kNone, true},
             {duration(lease.value("age_s", int64_t{0})), Colour::kNone, true},
             {duration(lease.value("idle_s", int64_t{0})), Colour::kNone, true},
             {text_of(lease, "state")}});
}

int leases(const LeaseOptions& options) {
  auto answers = reachable(options.where);
  Table table({"LEASE", "SERVER", "CLIENT", "HOST", "PROGRAM", "GPU:MIB", "SESSIONS", "AGE", "IDLE", "STATE"});
  json all = json::array();
  for (auto& answer : answers) {
    const std::string server = answer.server.to_string();
    auto text = answer.remote->manage({"leases"}, control::deadline_in(kAnswerTime));
    json found = text.ok() ? json::parse(*text, nullptr, false) : json();
    if (!found.is_object()) return complain(server + ": " + (text.ok() ? "not JSON" : text.status().message())), kFailed;
    for (auto& lease : found.value("leases", json::array())) {
      add_row(table, server, lease);
      lease["server"] = server;
      all.push_back(lease);
    }
  }
  if (options.as_json)
    print(json{{"leases", all}});
  else if (!answers.empty())
    print(table);
  return answers.empty() ? kFailed : 0;
}

}  // namespace

void add_lease_commands(Commands& commands) {
  auto options = std::make_shared<LeaseOptions>();
  auto* sub = commands.add("request", "Take GPUs that stay taken; prints the lease", [=] { return request(*options); });
  describe(*sub, options->request);
  sub->add_option("--ttl", options->ttl, "Give them back after this time, such as 30m or 2h (default: when released)")->type_name("TIME");
  sub->add_flag("--json", options->as_json, "For programs");

  sub = commands.add("client", "Run a program on a lease of 'bf request'", [=] { return client(*options); });
  sub->add_option("--lease", options->lease, "What 'bf request' printed")->required()->type_name("ID");
  sub->add_option("--transport", options->transport, "auto (default), tcp, rdma, or shm on the same host")
      ->check(CLI::IsMember({"auto", "tcp", "shm", "rdma"}))
      ->type_name("NAME");
  sub->add_option("PROGRAM", options->command, "What to run, and its arguments")->type_name("[ARGUMENTS]");
  describe(*sub, options->where);

  for (const char* verb : {"release", "kill"}) {
    bool kill = std::string(verb) == "kill";
    sub = commands.add(verb, kill ? "End anybody's lease (for administrators)" : "Give a lease of yours back",
                       [=] { return end(*options, verb); });
    sub->add_option("LEASE", options->lease, "Its id")->required();
    describe(*sub, options->where);
  }
  sub = commands.add("leases", "Who has borrowed what", [=] { return leases(*options); });
  sub->add_flag("--json", options->as_json, "For programs");
  describe(*sub, options->where);
}

}  // namespace bf::tools
