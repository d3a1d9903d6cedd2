// What bfserver is told: flags, and the same names as keys of bfserver.toml. Flags win over the file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/status.h"

namespace bf::daemon {

inline constexpr uint16_t kDefaultPort = 56001;
inline constexpr const char* kDefaultConfig = "/etc/backfield/bfserver.toml";

struct Options {
  std::vector<std::string> listen;  // empty: 127.0.0.1:56001
  bool dev = false;
  std::string state_dir = "/var/lib/backfield";
  std::string restore;          // a file of `bf backup` to take over, instead of serving
  std::string audit_log;        // empty: audit.log in the state folder
  std::string tls_certificate;  // of the administrator's own, with its key and authority
  std::string tls_key;
  std::string tls_ca;
  bool foreground = false;
  uint32_t software_gpus = 0;
  uint64_t software_memory_mib = 16384;
  std::string worker;       // path; found beside bfserver if empty
  std::string worker_user;  // empty: "backfield" if it exists
  uint32_t warm_workers = 1;
  uint32_t drain_seconds = 30;
  std::string encryption = "auto";  // of sessions: auto (off loopback), always, never
  uint32_t idle_timeout_s = 0;    // a lease without a CUDA call for so long is taken back; 0: never
  uint32_t auto_release_s = 600;  // a detached lease that nobody uses for so long is released; 0: never
  std::string log_level = "info";
  std::string log_file;
  std::string gpudirect = "on";    // with rdma: the network card reads GPU memory where it can
  std::string rdma = "on";      // off, or the numeric address of the RDMA interface
  std::string kernel_log;       // empty: /dev/kmsg, for real GPUs
  std::string server_name;      // empty: the host's
  std::string image_cache;      // folder; empty: code images are not kept
  uint64_t image_cache_mib = 8192;
  std::string software_driver;  // path of the software libcuda.so.1; found beside bfserver

  LogLevel level() const { return parse_log_level(log_level, LogLevel::kInfo); }
};

struct Parsed {
  Options options;
  std::string print;  // not empty: print this and exit with `exit_status` (help, version, usage errors)
  int exit_status = 0;
};

// Reads the flags and the configuration file they name (a missing default file is no error). Usage errors come back as
// `print` with status 2 and say what to type; errors in the file name its line.
Parsed parse_options(int argc, const char* const* argv);

}  // namespace bf::daemon
