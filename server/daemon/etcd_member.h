// The member of etcd that this server runs for its pool: a child, started again when it dies, ended with bfserver - also
// when that is killed, so that the next one finds its port and its data free.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/status.h"
#include "server/daemon/cluster_config.h"
#include "server/daemon/event_loop.h"

namespace bf::daemon {

class EtcdMember {
 public:
  static constexpr auto kPause = std::chrono::seconds(2);   // before it is started again
  static constexpr auto kEndTime = std::chrono::seconds(3);  // to end in order

  EtcdMember(EventLoop& loop, ClusterConfig::Member member, std::string state_dir);
  ~EtcdMember();
  EtcdMember(const EtcdMember&) = delete;

  // kInvalid if etcd is not installed.
  Status start();
  // SIGCHLD came.
  void reap();

 private:
  EventLoop& loop_;
  const ClusterConfig::Member member_;
  const std::string state_dir_;
  pid_t pid_ = -1;
  EventLoop::TimerId restart_{};
};

}  // namespace bf::daemon
