// The commands of bf, and what they share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/request.h"
#include "tools/survey.h"
#include "tools/table.h"

namespace bf::tools {

inline constexpr auto kAnswerTime = std::chrono::milliseconds(5000);
inline constexpr int kFailed = 1;  // no server answered, or one is ill

void print(const Table& table);
void print(const nlohmann::json& value);
void complain(const std::string& text);
// A text in a server's answer, fit for a terminal.
std::string text_of(const nlohmann::json& entry, const char* key);

// A command: its options, and what it does; the result is bf's exit status.
using Action = std::function<int()>;
struct Commands {
  CLI::App& app;
  std::vector<std::pair<CLI::App*, Action>> actions{};
  CLI::App* add(const std::string& name, const std::string& what, Action action) {
    CLI::App* sub = app.add_subcommand(name, what);
    actions.emplace_back(sub, std::move(action));
    return sub;
  }
};

void add_lease_commands(Commands& commands);
void add_token_commands(Commands& commands);
void add_admin_commands(Commands& commands);
void add_cluster_commands(Commands& commands);
void add_predict_command(Commands& commands);

// Asks the servers named by the options; complains of those that do not answer, and says what to type where none is
// named. Nothing if none answers.
std::vector<Answer> reachable(const ServerOptions& options);

// The server of this machine, if the options name none.
ServerOptions or_own(ServerOptions options);
// Of the servers of a managed pool one: what it is told, all know.
std::vector<Answer> one_of_each_pool(std::vector<Answer> answers);
// One command to one server; the answer is JSON, and errors begin with the server's name.
Result<nlohmann::json> ask(const Answer& server, const std::vector<std::string>& words, std::string_view file = {},
                           std::chrono::milliseconds time = kAnswerTime);

}  // namespace bf::tools
