// One description of every option serves the command line and the file: a key of bfserver.toml is turned into the flag
// of that name and goes through the same parser, so types, ranges and messages cannot differ.
#include "server/daemon/options.h"

#include <arpa/inet.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>

#include "base/limits.h"
#include "proto/control.h"

namespace bf::daemon {
namespace {

constexpr const char* kFooter =
    "\nEvery flag is also a key of the configuration file: 'warm-workers = 2'.\n"
    "Signals: SIGTERM drains and ends (a second one ends at once), SIGHUP reads the file again.\n"
    "\nTry it without a GPU:\n"
    "  bfserver --dev --software-gpus 2 --foreground\n"
    "  bfrun --server 127.0.0.1 -n 1 -m 2048 -- PROGRAM\n";

struct CommandLine {
  Options options;
  std::string config;
};

std::string rdma_setting(const std::string& text) {
  char parsed[sizeof(in6_addr)];
  if (text == "on" || text == "off" || inet_pton(AF_INET, text.c_str(), parsed) == 1 ||
      inet_pton(AF_INET6, text.c_str(), parsed) == 1)
    return {};
  return "'" + text + "' is neither on nor off nor a numeric address";
}

// CLI11 keeps references to `line`.
void describe(CLI::App& app, CommandLine& line) {
  Options& o = line.options;
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.add_option("--config", line.config, std::string("Configuration file (default ") + kDefaultConfig + ")")
      ->type_name("FILE");
  app.add_option("--listen", o.listen, "Address to listen on, repeatable (default 127.0.0.1:56001)")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1, 16)
      ->allow_extra_args(false)
      ->type_name("HOST:PORT");
  app.add_flag("--dev", o.dev, "For trying out: loopback addresses only, this user's processes only, no tokens");
  app.add_option("--state-dir", o.state_dir, "Where tokens, certificates and history are kept (default /var/lib/backfield)")
      ->type_name("FOLDER");
  app.add_option("--restore", o.restore, "Take over what 'bf backup' wrote into the state folder, and end")->type_name("FILE");
  app.add_option("--audit-log", o.audit_log, "Who borrowed what, in JSON lines (default audit.log in the state folder)")
      ->type_name("FILE");
  app.add_option("--tls-certificate", o.tls_certificate, "Certificate of your own, instead of the pool's")->type_name("FILE");
  app.add_option("--tls-key", o.tls_key, "Its key")->type_name("FILE");
  app.add_option("--tls-ca", o.tls_ca, "The authority it is from")->type_name("FILE");
  app.add_flag("--foreground", o.foreground, "Stay in the foreground");
  app.add_option("--software-gpus", o.software_gpus, "Offer this many software GPUs instead of real ones")
      ->check(CLI::Range(0u, limits::kDevices))
      ->type_name("N");
  app.add_option("--software-memory", o.software_memory_mib, "Memory of each software GPU in MiB (default 16384)")
      ->check(CLI::Range(uint64_t{64}, uint64_t{1} << 20))
      ->type_name("MIB");
  app.add_option("--warm-workers", o.warm_workers, "Workers kept ready per GPU (default 1)")
      ->check(CLI::Range(0u, 64u))
      ->type_name("N");
  app.add_option("--drain-seconds", o.drain_seconds, "How long sessions may go on after SIGTERM (default 30)")
      ->check(CLI::Range(0u, 86400u))
      ->type_name("SECONDS");
  app.add_option("--encryption", o.encryption,
                 "Encrypt sessions: auto (default: but on loopback), always, or never on networks you trust")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->type_name("POLICY");
  app.add_option("--idle-timeout", o.idle_timeout_s, "Take a lease back after so long without a CUDA call (default 0: never)")
      ->check(CLI::Range(0u, 31'536'000u))
      ->type_name("SECONDS");
  app.add_option("--auto-release", o.auto_release_s,
                 "Release what 'bf request' took when nobody uses it for so long (default 600; 0: never)")
      ->check(CLI::Range(0u, 31'536'000u))
      ->type_name("SECONDS");
  app.add_option("--gpudirect", o.gpudirect, "Over RDMA, let the network card read GPU memory where both can: on (default) or off")
      ->check(CLI::IsMember({"on", "off"}))
      ->type_name("WHAT");
  app.add_option("--rdma", o.rdma,
                 "RDMA: on (default; used where there are devices and --encryption is never, as its traffic is not\n"
                 "encrypted), off, or the numeric address of the RDMA interface if clients reach this server by another")
      ->check(rdma_setting)
      ->type_name("WHAT");
  app.add_option("--server-name", o.server_name, "Name shown to people (default: this host's)")->type_name("NAME");
  app.add_option("--worker", o.worker, "Worker program (default ../lib/backfield/bfworker beside this one)")
      ->type_name("PATH");
  app.add_option("--software-driver", o.software_driver, "Software libcuda.so.1 (default beside the worker)")
      ->type_name("PATH");
  app.add_option("--image-cache", o.image_cache,
                 "Folder for programs' code images, so that they are uploaded once (default: systemd's CACHE_DIRECTORY)")
      ->type_name("DIR");
  app.add_option("--image-cache-mib", o.image_cache_mib, "Bound of the image cache in MiB (default 8192)")->type_name("MIB");
  app.add_option("--worker-user", o.worker_user, "User that workers run as when started as root (default backfield)")
      ->type_name("USER");
  app.add_option("--log-level", o.log_level, "off, error, warn, info (default), debug or trace")
      ->check(CLI::IsMember({"off", "error", "warn", "info", "debug", "trace"}))
      ->type_name("LEVEL");
  app.add_option("--kernel-log", o.kernel_log, "Where the driver's Xid errors are read (default /dev/kmsg)")->type_name("FILE");
  app.add_option("--log-file", o.log_file, "Write the log here instead of to standard error")->type_name("FILE");
}

// Throws CLI::ParseError.
CommandLine parse_arguments(std::vector<std::string> arguments) {
  CommandLine line;
  CLI::App app;
  describe(app, line);
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them last first
  app.parse(arguments);
  return line;
}

std::string as_flag_value(const toml::node& node) {
  if (auto text = node.as_string()) return text->get();
  if (auto number = node.as_integer()) return std::to_string(number->get());
  if (auto truth = node.as_boolean()) return truth->get() ? "true" : "false";
  throw CLI::ValidationError("write a string, a whole number, true or false");
}

// The arguments a file stands for; kInvalid naming the line.
Result<std::vector<std::string>> arguments_of(const std::string& path, bool listens_elsewhere) {
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    auto line = error.source().begin.line;
    std::string where = line > 0 ? path + ":" + std::to_string(line) : path;
    return Status{StatusCode::kInvalid, where + ": " + std::string(error.description())};
  }
  std::vector<std::string> all;
  for (auto& [key, node] : table) {
    std::string name(key.str());
    std::string where = path + ":" + std::to_string(key.source().begin.line) + ": ";
    try {
      if (name == "config") throw CLI::ValidationError("a configuration file cannot name another");
      std::vector<std::string> own;
      if (auto list = node.as_array()) {
        if (name != "listen") throw CLI::ValidationError("only 'listen' takes a list");
        for (auto& element : *list) own.push_back("--" + name + "=" + as_flag_value(element));
      } else {
        own.push_back("--" + name);
        // CLI11 takes "--name=" for a flag without its value.
        if (std::string value = as_flag_value(node); value.empty())
          own.push_back(value);
        else
          own.back() += "=" + value;
      }
      parse_arguments(own);
      if (name != "listen" || !listens_elsewhere) all.insert(all.end(), own.begin(), own.end());
    } catch (const CLI::ExtrasError&) {
      return Status{StatusCode::kInvalid,
                    where + "'" + name + "' is not a key that bfserver knows (see bfserver --help)"};
    } catch (const CLI::ParseError& error) {
      return Status{StatusCode::kInvalid, where + name + ": " + error.what()};
    }
  }
  return all;
}

Parsed usage_error(const std::string& what) {
  return {
      {}, "bfserver: " + what + "\nTry 'bfserver --help', or 'bfserver --dev --software-gpus 2 --foreground'.\n", 2};
}

}  // namespace

Parsed parse_options(int argc, const char* const* argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (auto& argument : arguments) {
    if (argument == "--version") return {{}, "bfserver " BF_VERSION "\n", 0};
    if (argument != "--help" && argument != "-h") continue;
    CommandLine line;
    CLI::App app("The Backfield daemon: lends this machine's GPUs over the network.", "bfserver");
    describe(app, line);
    app.footer(kFooter);
    return {{}, app.help(), 0};
  }
  try {
    CommandLine line = parse_arguments(arguments);
    std::string file = line.config.empty() ? kDefaultConfig : line.config;
    if (line.config.empty() && ::access(file.c_str(), F_OK) != 0) return {std::move(line.options), {}, 0};
    auto from_file = arguments_of(file, !line.options.listen.empty());
    if (!from_file.ok()) return {{}, "bfserver: " + from_file.status().message() + "\n", 2};
    from_file->insert(from_file->end(), arguments.begin(), arguments.end());
    return {parse_arguments(std::move(*from_file)).options, {}, 0};
  } catch (const CLI::ExtrasError& error) {
    return usage_error(error.what());
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what());
  }
}

}  // namespace bf::daemon
