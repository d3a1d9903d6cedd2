// bf limit, history, drain, undrain, backup, restore: for the administrators of a pool.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>

#include "base/log.h"
#include "tools/bf.h"

namespace bf::tools {
namespace {

using nlohmann::json;

struct AdminOptions {
  ServerOptions where;
  std::string scope;
  double gpus = -1;
  int64_t memory_mib = -1;
  int64_t leases = -1;
  uint32_t deadline_s = 0;
  std::string server;
  std::string file;
  bool as_json = false;
};

// Tells every server, or one of each managed pool.
int tell(const std::vector<Answer>& servers, const std::vector<std::string>& words) {
  int result = servers.empty() ? kFailed : 0;
  for (auto& server : servers) {
    auto done = ask(server, words);
    if (done.ok()) continue;
    complain(done.status().message());
    result = kFailed;
  }
  return result;
}

int set_limit(const AdminOptions& o) {
  return tell(one_of_each_pool(reachable(o.where)), {"limit", "set", o.scope, fmt::format("{}", o.gpus), std::to_string(o.memory_mib), std::to_string(o.leases)});
}

// Lists what every server answers under `key`, one row for each entry.
int show(const AdminOptions& options, const std::vector<std::string>& words, const char* key, Table table,
         const std::function<std::vector<Cell>(const json&)>& row) {
  auto servers = reachable(options.where);
  json all = json::array();
  for (auto& server : servers) {
    auto answer = ask(server, words);
    if (!answer.ok()) return complain(answer.status().message()), kFailed;
    for (auto& entry : answer->value(key, json::array())) {
      auto cells = row(entry);
      cells.insert(cells.begin(), Cell{server.server.to_string()});
      table.add(cells);
      entry["server"] = server.server.to_string();
      all.push_back(entry);
    }
  }
  if (options.as_json)
    print(json{{key, all}});
  else if (!servers.empty())
    print(table);
  return servers.empty() ? kFailed : 0;
}

std::string time_of(const json& entry, const char* key) {
  char text[32] = "";
  time_t time = entry.value(key, int64_t{0});
  tm parts{};
  ::localtime_r(&time, &parts);
  ::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
  return text;
}

int list_limits(const AdminOptions& options) {
  auto amount = [](double value) { return value < 0 ? std::string("-") : fmt::format("{}", value); };
  return show(options, {"limit", "list"}, "limits", Table({"SERVER", "OF", "GPUS", "MIB", "LEASES"}), [&](const json& limit) {
    return std::vector<Cell>{{text_of(limit, "scope")},
                             {amount(limit.value("gpus", -1.0)), Colour::kNone, true},
                             {amount(limit.value("memory_mib", -1.0)), Colour::kNone, true},
                             {amount(limit.value("leases", -1.0)), Colour::kNone, true}};
  });
}

int history(const AdminOptions& options) {
  return show(options, {"history"}, "leases",
              Table({"SERVER", "LEASE", "CLIENT", "HOST", "PROGRAM", "GPUS", "MIB", "BEGAN", "ENDED", "HOW"}), [](const json& lease) {
                return std::vector<Cell>{{text_of(lease, "id")},
                                         {text_of(lease, "client")},
                                         {text_of(lease, "host")},
                                         {text_of(lease, "program")},
                                         {std::to_string(lease.value("gpus", 0)), Colour::kNone, true},
                                         {std::to_string(lease.value("memory_mib", int64_t{0})), Colour::kNone, true},
                                         {time_of(lease, "began")},
                                         {time_of(lease, "ended")},
                                         {text_of(lease, "end")}};
              });
}

int drain(const AdminOptions& options, bool on) {
  ServerOptions where;
  where.servers = {options.server};
  if (on) return tell(reachable(where), {"drain", std::to_string(options.deadline_s)});
  return tell(reachable(where), {"undrain"});
}

int backup(const AdminOptions& options) {
  auto servers = reachable(or_own(options.where));
  if (servers.empty()) return kFailed;
  auto answer = ask(servers[0], {"backup"});
  if (!answer.ok()) return complain(answer.status().message()), kFailed;
  std::string text = answer->dump(1) + "\n";
  int fd = ::open(options.file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  bool written = fd >= 0 && ::write(fd, text.data(), text.size()) == ssize_t(text.size()) && ::fsync(fd) == 0;
  int error = errno;
  if (fd >= 0) ::close(fd);
  if (!written) return complain("cannot write " + options.file + ": " + strerror(error)), kFailed;
  return 0;
}

int restore(const AdminOptions& options) {
  std::ifstream file(options.file);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return complain("cannot read " + options.file), kFailed;
  auto servers = one_of_each_pool(reachable(or_own(options.where)));
  int result = servers.empty() ? kFailed : 0;
  for (auto& server : servers)
    if (auto answer = ask(server, {"restore"}, text.view()); !answer.ok()) complain(answer.status().message()), result = kFailed;
  return result;
}

}  // namespace

void add_admin_commands(Commands& commands) {
  auto options = std::make_shared<AdminOptions>();
  CLI::App* parent = commands.app.add_subcommand("limit", "How much may be held at a time (for administrators)");
  parent->require_subcommand(1);
  Commands limits{*parent};
  auto* sub = limits.add("set", "Set the limits of a scope", [=] { return set_limit(*options); });
  sub->add_option("SCOPE", options->scope, "pool (all servers together), server (each by itself), client (each by itself), client:NAME or group:NAME")->required();
  sub->add_option("--gpus", options->gpus, "GPUs, such as 2.5; fractions add up")->check(CLI::Range(0.0, 1e6))->type_name("N");
  sub->add_option("--memory", options->memory_mib, "MiB of memory")->check(CLI::Range(int64_t{0}, int64_t{1} << 40))->type_name("MIB");
  sub->add_option("--leases", options->leases, "Leases")->check(CLI::Range(int64_t{0}, int64_t{1} << 20))->type_name("N");
  describe(*sub, options->where);
  sub = limits.add("remove", "Lift the limits of a scope", [=] { return tell(one_of_each_pool(reachable(options->where)), {"limit", "remove", options->scope}); });
  sub->add_option("SCOPE", options->scope, "As in limit set")->required();
  describe(*sub, options->where);
  sub = limits.add("list", "Which limits there are", [=] { return list_limits(*options); });
  sub->add_flag("--json", options->as_json, "For programs");
  describe(*sub, options->where);
  commands.actions.insert(commands.actions.end(), limits.actions.begin(), limits.actions.end());

  sub = commands.add("history", "Leases that have ended", [=] { return history(*options); });
  sub->add_flag("--json", options->as_json, "For programs");
  describe(*sub, options->where);
  sub = commands.add("drain", "No new leases on a server, for maintenance", [=] { return drain(*options, true); });
  sub->add_option("SERVER", options->server, "HOST[:PORT]")->required();
  sub->add_option("--deadline", options->deadline_s, "End the leases that are left after so long (default: let them run)")->type_name("SECONDS");
  sub = commands.add("undrain", "Offer a drained server again", [=] { return drain(*options, false); });
  sub->add_option("SERVER", options->server, "HOST[:PORT]")->required();
  sub = commands.add("backup", "Write the pool's authority, tokens and limits to a file", [=] { return backup(*options); });
  sub->add_option("FILE", options->file, "New file, readable by you only")->required();
  describe(*sub, options->where);
  sub = commands.add("restore", "Replace authority, tokens and limits by those of a file of bf backup", [=] { return restore(*options); });
  sub->add_option("FILE", options->file, "What bf backup wrote")->required();
  describe(*sub, options->where);
}

}  // namespace bf::tools
