// The links (cuLinkCreate) of a session.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>

#include "proto/api/cuda_api.h"

namespace bf::server {

struct Link;

class Links {
 public:
  Links();
  ~Links();
  std::shared_ptr<Link> find(CUlinkState state) const;
  void add(CUlinkState state, std::shared_ptr<Link> link);
  void remove(CUlinkState state);

 private:
  mutable std::mutex mutex_;
  std::unordered_map<CUlinkState, std::shared_ptr<Link>> links_;
};

}  // namespace bf::server
