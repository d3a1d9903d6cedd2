// bf cluster: servers that share tokens, limits and leases through etcd. Said on the server concerned, to its bfserver.
#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/log.h"
#include "tools/bf.h"

namespace bf::tools {
namespace {

using nlohmann::json;

constexpr auto kStartTime = std::chrono::milliseconds(60'000);  // etcd may have to be started
constexpr auto kJoinTime = std::chrono::minutes(1);            // until the server that joins before this one is ready
constexpr auto kLeaveTime = std::chrono::seconds(15);          // until members that have just started count
constexpr uint16_t kEtcdPort = 56002;

struct ClusterOptions {
  ServerOptions where;
  std::string address;
  std::vector<std::string> etcd;
  std::string ca_file, certificate_file, key_file;
  std::string pool_server;
  std::string name;
  bool no_etcd = false;
  bool as_json = false;
};

Result<std::string> file_text(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return Status{StatusCode::kInvalid, "cannot read " + path};
  return text.str();
}

// The server that the command is about.
Result<Answer> own_server(const ClusterOptions& options) {
  auto servers = reachable(or_own(options.where));
  if (servers.empty()) return Status{StatusCode::kUnavailable, "no server answers"};
  if (servers.size() > 1) return Status{StatusCode::kInvalid, "this is said to one server, by default that of this machine"};
  return servers[0];
}

Result<json> ask_own(const ClusterOptions& options, const std::vector<std::string>& words, const std::string& payload = {}) {
  auto server = own_server(options);
  return server.ok() ? ask(*server, words, payload, kStartTime) : server.status();
}

// Until the server can do it, or `time` is over.
Result<json> insist(std::chrono::seconds time, const std::function<Result<json>()>& question) {
  for (const auto end = std::chrono::steady_clock::now() + time;; std::this_thread::sleep_for(std::chrono::seconds(1))) {
    auto answer = question();
    if (answer.ok() || answer.status().code() != StatusCode::kExhausted || std::chrono::steady_clock::now() > end) return answer;
  }
}

int report(const Result<json>& answer, const std::function<std::string(const json&)>& text) {
  if (!answer.ok()) return complain(answer.status().message()), kFailed;
  puts(text(answer.value()).c_str());
  return 0;
}

std::string members_text(const json& answer) {
  std::string text;
  for (auto& url : answer.value("endpoints", json::array())) text += (text.empty() ? "" : ", ") + printable(url.get<std::string>());
  return text;
}

int init(const ClusterOptions& options) {
  auto done = [](const json& answer) {
    return "The pool is managed now, by etcd at " + members_text(answer) + ".\nOn the other servers say: bf cluster join SERVER   (this one's name; with an administrator's token)";
  };
  if (options.etcd.empty()) {
    auto address = transport::parse_address(options.address.empty() ? ":" : options.address, kEtcdPort);
    if (!options.address.empty() && !address.ok()) return complain(address.status().message()), 2;
    return report(ask_own(options, {"cluster", "init", options.address.empty() ? "" : address->host, std::to_string(options.address.empty() ? kEtcdPort : address->port)}), done);
  }
  auto ca = file_text(options.ca_file), certificate = file_text(options.certificate_file), key = file_text(options.key_file);
  for (auto* text : {&ca, &certificate, &key})
    if (!text->ok()) return complain(text->status().message()), 2;
  json given = {{"endpoints", options.etcd}, {"ca", *ca}, {"certificate", *certificate}, {"key", *key}};
  return report(ask_own(options, {"cluster", "init-at"}, given.dump()), done);
}

// The pool says what to know, and this machine's server does the rest.
int join(const ClusterOptions& options) {
  auto own = own_server(options);
  if (!own.ok()) return complain(own.status().message()), kFailed;
  ServerOptions pool;
  pool.servers = {options.pool_server};
  auto there = reachable(pool);
  if (there.empty()) return kFailed;
  const std::string name = own->list.server_name;
  transport::Address address{name, kEtcdPort, {}};
  if (!options.address.empty()) {
    auto parsed = transport::parse_address(options.address, kEtcdPort);
    if (!parsed.ok()) return complain(parsed.status().message()), 2;
    address = *parsed;
  }
  transport::Address peer = address;
  peer.port++;
  auto invitation = insist(kJoinTime, [&] {
    return ask(there[0], {"cluster", "invite", name, options.no_etcd ? "" : "https://" + peer.to_string()}, {}, kStartTime);
  });
  if (!invitation.ok()) return complain(invitation.status().message()), kFailed;
  (*invitation)["name"] = name;
  (*invitation)["host"] = address.host;
  (*invitation)["port"] = address.port;
  return report(ask(*own, {"cluster", "join"}, invitation->dump(), kStartTime), [](const json& answer) {
    return std::string("This server is part of the pool") + (answer.value("member", false) ? ", and one of those that run its etcd." : ".");
  });
}

int leave(const ClusterOptions& options) {
  std::vector<std::string> words = {"cluster", "leave"};
  if (!options.name.empty()) words = {"cluster", "dismiss", options.name};
  return report(insist(kLeaveTime, [&] { return ask_own(options, words); }), [](const json& answer) {
    std::string note = printable(answer.value("note", ""));
    return printable(answer.value("left", "")) + " has left the pool." + (note.empty() ? "" : "\n" + note);
  });
}

int status(const ClusterOptions& options) {
  auto answer = ask_own(options, {"cluster", "status"});
  if (!answer.ok()) return complain(answer.status().message()), kFailed;
  bool managed = answer->value("managed", false), majority = answer->value("majority", false);
  int result = managed && !majority ? kFailed : 0;
  if (options.as_json) return print(*answer), result;
  if (!managed) return puts("This server stands alone; bf cluster init makes its pool a managed one."), 0;
  Table etcd({"ETCD", "URL", "STATE"}), servers({"SERVER", "ADDRESSES", "VERSION", "LEASES"});
  for (auto& member : answer->value("etcd", json::array())) {
    bool well = member.value("well", false);
    etcd.add({{printable(member.value("name", "-"))}, {printable(member.value("url", ""))}, {well ? "well" : "does not answer", well ? Colour::kGreen : Colour::kRed}});
  }
  for (auto& server : answer->value("servers", json::array())) {
    std::string addresses;
    for (auto& address : server.value("addresses", json::array())) addresses += (addresses.empty() ? "" : " ") + address.get<std::string>();
    servers.add({{printable(server.value("name", ""))}, {printable(addresses)}, {printable(server.value("version", ""))}, {std::to_string(server.value("leases", 0)), Colour::kNone, true}});
  }
  print(etcd);
  puts("");
  if (majority)
    print(servers);
  else
    printf("etcd has no majority: running programs go on, new leases wait (%s)\n", printable(answer->value("why", "")).c_str());
  return result;
}

}  // namespace

void add_cluster_commands(Commands& commands) {
  auto options = std::make_shared<ClusterOptions>();
  CLI::App* parent = commands.app.add_subcommand("cluster", "Servers that share tokens, limits and leases through etcd");
  parent->require_subcommand(1);
  Commands cluster{*parent};
  auto with_address = [&](CLI::App* sub) {
    sub->add_option("--address", options->address, "Of this server's member of etcd (default: the server's name, port 56002; members use the next port, too)")
        ->type_name("HOST[:PORT]");
  };
  auto* sub = cluster.add("init", "Make this server's pool a managed one", [=] { return init(*options); });
  with_address(sub);
  auto* etcd = sub->add_option("--etcd", options->etcd, "Use this etcd, instead of one that the servers run")->delimiter(',')->type_name("URL[,URL]");
  sub->add_option("--etcd-ca", options->ca_file, "The authority it is from")->needs(etcd)->type_name("FILE");
  auto* certificate = sub->add_option("--etcd-certificate", options->certificate_file, "What to show it")->needs(etcd)->type_name("FILE");
  sub->add_option("--etcd-key", options->key_file, "The certificate's key")->needs(certificate)->type_name("FILE");
  describe(*sub, options->where);
  sub = cluster.add("join", "Take part in a pool", [=] { return join(*options); });
  sub->add_option("SERVER", options->pool_server, "HOST[:PORT] of any server of the pool")->required();
  with_address(sub);
  sub->add_flag("--no-etcd", options->no_etcd, "Run no member of etcd here (only the first three servers do)");
  describe(*sub, options->where);
  sub = cluster.add("leave", "Take this server out of its pool, or one that is gone for good", [=] { return leave(*options); });
  sub->add_option("NAME", options->name, "A server that is gone (default: this one)");
  describe(*sub, options->where);
  sub = cluster.add("status", "Who is there, and whether etcd has a majority", [=] { return status(*options); });
  sub->add_flag("--json", options->as_json, "For programs");
  describe(*sub, options->where);
  commands.actions.insert(commands.actions.end(), cluster.actions.begin(), cluster.actions.end());
}

}  // namespace bf::tools
