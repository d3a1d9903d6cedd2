// One end of an rdma link: its device, memory and queue pairs while they are connected one by one, and the link that
// they become.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "transport/rdma_connect.h"
#include "transport/rdma_link.h"

namespace bf::transport::rdma {

struct EventChannelDelete {
  void operator()(rdma_event_channel* channel) const { loaded_verbs().rdma_destroy_event_channel(channel); }
};
using EventChannel = std::unique_ptr<rdma_event_channel, EventChannelDelete>;

class Endpoint {
 public:
  static Result<std::unique_ptr<Endpoint>> make(ibv_context* context, uint32_t bulk_channels);
  ~Endpoint();

  ibv_context* context() const { return context_; }
  Landing landing() const { return {uint64_t(landing_->data()), landing_->region().remote_key()}; }
  // Gives the connection its queue pair and posts its receives; after this it may be established.
  Status add(std::unique_ptr<Connection> connection, uint32_t channel);
  // Where the peer's blocks land; before the link is made.
  void set_peer(const Landing& peer) { bulk_->set_peer(peer); }
  // The channel of a connection, or -1.
  int channel_of(const rdma_cm_id* id) const;

  const std::vector<std::unique_ptr<Connection>>& connections() const { return connections_; }
  Fate& fate() { return fate_; }
  // Ends the link with `why` and wakes everybody. Never blocks, takes no lock of a stream; only the first reason counts.
  void fail(const Status& why) noexcept;

  RdmaStream& calls() { return *streams_[0]; }
  RdmaStream& side() { return *streams_[1]; }
  RdmaBulk& bulk() { return *bulk_; }
  // Readable once the link has failed.
  const Wake& failed() const { return failed_; }

 private:
  Endpoint(ibv_context* context, uint32_t channels) : context_(context), connections_(channels) {}

  ibv_context* const context_;
  ibv_pd* pd_ = nullptr;
  Fate fate_;
  Wake failed_;
  std::unique_ptr<Buffer> landing_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::unique_ptr<RdmaStream> streams_[kStreams];
  std::unique_ptr<RdmaBulk> bulk_;
};

// A link over an endpoint whose connections are all established, with the channel of their events.
Result<std::unique_ptr<Link>> make_link(std::unique_ptr<Endpoint> endpoint, EventChannel events, Fd control);

// What lies under an rdma link, for tests that break it.
Endpoint& endpoint_of(Link& link);

}  // namespace bf::transport::rdma
