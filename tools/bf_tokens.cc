// bf token: who may borrow. The secret is made here, printed once, and only its hash goes to the servers.
#include <ctime>

#include "base/hex.h"
#include "base/random.h"
#include "proto/secrets.h"
#include "tools/bf.h"

namespace bf::tools {
namespace {

using nlohmann::json;

struct TokenOptions {
  ServerOptions where;
  std::string name;
  std::string expires = "1y";
  std::string group;
  bool admin = false;
  bool as_json = false;
};

control::Deadline soon() { return control::deadline_in(kAnswerTime); }

// The servers to change: those named, or else the one of this machine, over its Unix socket.
std::vector<Answer> managed(const TokenOptions& options) { return one_of_each_pool(reachable(or_own(options.where))); }

// Tells every server; all have to agree. The pins must be the same, or they are no pool.
int tell_all(const std::vector<Answer>& servers, const std::vector<std::string>& words) {
  int result = servers.empty() ? kFailed : 0;
  for (auto& server : servers) {
    auto done = server.remote->manage(words, soon());
    if (done.ok()) continue;
    complain(server.server.to_string() + ": " + done.status().message());
    result = kFailed;
  }
  return result;
}

Result<std::string> common_pin(const std::vector<Answer>& servers) {
  std::string pin;
  for (auto& server : servers) {
    auto text = server.remote->manage({"token", "pin"}, soon());
    if (!text.ok()) return Status{text.status().code(), server.server.to_string() + ": " + text.status().message()};
    auto shown = from_hex(json::parse(*text, nullptr, false).value("pin", std::string()));
    if (!shown || shown->size() != 32) return Status{StatusCode::kInvalid, server.server.to_string() + ": shows no pin"};
    if (!pin.empty() && pin != *shown)
      return Status{StatusCode::kInvalid, server.server.to_string() + " is of another pool than the servers before it"};
    pin = *shown;
  }
  if (pin.empty()) return Status{StatusCode::kUnavailable, "no server answers"};
  return pin;
}

int hand_out(const TokenOptions& options, const std::vector<std::string>& head, const std::vector<std::string>& tail) {
  auto servers = managed(options);
  auto pin = common_pin(servers);
  if (!pin.ok()) return complain(pin.status().message()), kFailed;
  Token token{random_id(), random_bytes(32), *pin};
  std::vector<std::string> words = head;
  words.insert(words.end(), {token.id, to_hex(secrets::digest(token.secret))});
  words.insert(words.end(), tail.begin(), tail.end());
  if (int failed = tell_all(servers, words); failed != 0) return failed;
  printf("# Backfield token of '%s'. Keep it secret: it is shown only now.\n%s\n", options.name.c_str(), to_text(token).c_str());
  return 0;
}

int create(const TokenOptions& options) {
  auto seconds = parse_seconds(options.expires);
  if (!seconds && options.expires != "never")
    return complain("--expires is a time such as 90d or 1y, or never; not '" + options.expires + "'"), 2;
  std::string expires = seconds ? std::to_string(::time(nullptr) + time_t(*seconds)) : "0";
  auto words = std::vector<std::string>{expires, options.admin ? "1" : "0", options.group};
  return hand_out(options, {"token", "add", options.name}, words);
}

std::string date(int64_t unix_time, const char* none) {
  char text[32] = "";
  time_t time = unix_time;
  tm parts{};
  ::gmtime_r(&time, &parts);
  ::strftime(text, sizeof text, "%Y-%m-%d", &parts);
  return unix_time == 0 ? none : text;
}

int list(const TokenOptions& options) {
  auto servers = managed(options);
  Table table({"SERVER", "CLIENT", "GROUP", "ADMIN", "CREATED", "EXPIRES", "STATE"});
  json all = json::array();
  for (auto& server : servers) {
    auto text = server.remote->manage({"token", "list"}, soon());
    if (!text.ok()) return complain(server.server.to_string() + ": " + text.status().message()), kFailed;
    json found = json::parse(*text, nullptr, false);
    for (auto& token : found.value("tokens", json::array())) {
      int64_t expires = token.value("expires", int64_t{0});
      bool over = expires != 0 && expires <= ::time(nullptr), disabled = token.value("disabled", false);
      table.add({{server.server.to_string()},
                 {printable(token.value("name", ""))},
                 {printable(token.value("group", ""))},
                 {token.value("admin", false) ? "yes" : ""},
                 {date(token.value("created", int64_t{0}), "")},
                 {date(expires, "never")},
                 {disabled ? "disabled" : over ? "expired" : "valid", disabled || over ? Colour::kRed : Colour::kGreen}});
      token["server"] = server.server.to_string();
      all.push_back(token);
    }
  }
  if (options.as_json)
    print(json{{"tokens", all}});
  else if (!servers.empty())
    print(table);
  return servers.empty() ? kFailed : 0;
}

}  // namespace

void add_token_commands(Commands& commands) {
  auto options = std::make_shared<TokenOptions>();
  CLI::App* parent = commands.app.add_subcommand("token", "Who may borrow (for administrators)");
  parent->require_subcommand(1);
  Commands own{*parent};
  auto named = [&](const char* verb, const char* what, Action action) {
    CLI::App* sub = own.add(verb, what, std::move(action));
    sub->add_option("NAME", options->name, "The client")->required();
    describe(*sub, options->where);
    return sub;
  };
  auto* sub = named("create", "Make a token and print it", [=] { return create(*options); });
  sub->add_option("--expires", options->expires, "After this time, such as 90d or 1y (default), or never")->type_name("TIME");
  sub->add_option("--group", options->group, "Group, for limits")->type_name("NAME");
  sub->add_flag("--admin", options->admin, "Its holder may manage the pool");
  sub = own.add("list", "Which tokens there are", [=] { return list(*options); });
  sub->add_flag("--json", options->as_json, "For programs");
  describe(*sub, options->where);
  named("rotate", "Replace a token by a new one, and print that", [=] { return hand_out(*options, {"token", "rotate", options->name}, {}); });
  for (const char* verb : {"disable", "enable", "remove"})
    named(verb, (std::string(verb) == "enable" ? "Let it be used again" : std::string(verb) == "disable" ? "Let it not be used for now" : "Forget it"),
          [=] { return tell_all(managed(*options), {"token", verb, options->name}); });
  commands.actions.insert(commands.actions.end(), own.actions.begin(), own.actions.end());
}

}  // namespace bf::tools
