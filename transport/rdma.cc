// rdma: the life of a link. A watcher thread waits for everything that ends one: the connection over which the session
// was attached hangs up, rdma_cm says that the peer disconnected, the device reports an error.
#include "transport/rdma.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <thread>

#include "transport/rdma_endpoint.h"
#include "transport/rdma_health.h"
#include "transport/thread.h"

namespace bf::transport {
namespace rdma {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// How long a link that is destroyed waits until what it sent has arrived.
constexpr auto kLinger = 1s;

Status peer_left() { return {StatusCode::kUnavailable, "the peer closed the link or died"}; }

// Asynchronous events belong to a device context, which all links of a process on that device share: whichever watcher
// sees one hands it to everybody concerned.
class AsyncEvents {
 public:
  void add(Endpoint& endpoint) {
    std::lock_guard lock(mutex_);
    endpoints_.insert(&endpoint);
  }
  // After this, no event reaches the endpoint.
  void remove(Endpoint& endpoint) {
    std::lock_guard lock(mutex_);
    endpoints_.erase(&endpoint);
  }
  void take(ibv_context* context) {
    std::lock_guard lock(mutex_);
    ibv_async_event event;
    while (loaded_verbs().ibv_get_async_event(context, &event) == 0) {
      for (Endpoint* endpoint : endpoints_)
        if (endpoint->context() == context) tell(*endpoint, event);
      loaded_verbs().ibv_ack_async_event(&event);
    }
  }

 private:
  static void tell(Endpoint& endpoint, const ibv_async_event& event) {
    const Connection& any = *endpoint.connections()[0];
    std::string device = loaded_verbs().ibv_get_device_name(endpoint.context()->device);
    std::string what = loaded_verbs().ibv_event_type_str(event.event_type);
    switch (event.event_type) {
      case IBV_EVENT_QP_FATAL:
      case IBV_EVENT_QP_REQ_ERR:
      case IBV_EVENT_QP_ACCESS_ERR:
      case IBV_EVENT_PATH_MIG_ERR:
        for (auto& connection : endpoint.connections())
          if (connection->id()->qp == event.element.qp)
            endpoint.fail({StatusCode::kInternal, "the RDMA device " + device + " broke a connection: " + what});
        break;
      case IBV_EVENT_CQ_ERR:
      case IBV_EVENT_DEVICE_FATAL:
        endpoint.fail({StatusCode::kInternal, "the RDMA device " + device + " failed: " + what});
        break;
      case IBV_EVENT_PORT_ERR:
        if (event.element.port_num == any.id()->port_num)
          endpoint.fail({StatusCode::kInternal, "port " + std::to_string(event.element.port_num) + " of the RDMA device " + device + " went down"});
        break;
      default:  // a port that came up, a changed address table: the connections that stand go on
        break;
    }
  }

  std::mutex mutex_;
  std::set<Endpoint*> endpoints_;
};

AsyncEvents& async_events() {
  static auto* events = new AsyncEvents;
  return *events;
}

class RdmaLink : public Link {
 public:
  RdmaLink(std::unique_ptr<Endpoint> endpoint, EventChannel events, Fd control)
      : events_(std::move(events)), endpoint_(std::move(endpoint)), control_(std::move(control)) {
    int async = endpoint_->context()->async_fd;
    fcntl(async, F_SETFL, fcntl(async, F_GETFL) | O_NONBLOCK);
    async_events().add(*endpoint_);
  }

  ~RdmaLink() override {
    shut();
    bulk().stop();
    linger();
    stop_.raise();
    watcher_.join();
    async_events().remove(*endpoint_);
    for (auto& connection : endpoint_->connections()) connection->disconnect();
    std::vector<rdma_cm_id*> ids;
    for (auto& connection : endpoint_->connections()) ids.push_back(connection->dismantle());
    endpoint_.reset();
    auto destroy = [ids, events = events_.release()] {
      for (rdma_cm_id* id : ids) loaded_verbs().rdma_destroy_id(id);
      loaded_verbs().rdma_destroy_event_channel(events);
    };
    // The kernel says goodbye for each, and waits where nobody hears it: over a minute on Soft-RoCE (Linux 6.1). Whether somebody
    // does is not known here: a peer may seem to have left because it saw the cable go first.
    if (!Thread::start_detached("bf-rdma-bury", destroy)) destroy();
  }

  Status watch() {
    auto thread = Thread::start("bf-rdma-watch", [this] { watch_peer(); });
    if (thread.ok()) watcher_ = std::move(thread).value();
    return thread.status();
  }

  Endpoint& endpoint() { return *endpoint_; }
  Stream& calls() override { return endpoint_->calls(); }
  Stream& side() override { return endpoint_->side(); }
  Bulk& bulk() override { return endpoint_->bulk(); }
  const Limits& limits() const override { return limits_; }

  void shut() noexcept override {
    endpoint_->calls().shut();
    endpoint_->side().shut();
    endpoint_->bulk().shut(Status(StatusCode::kUnavailable, "the link was shut"));
  }

  std::vector<int> descriptors() const override {
    std::vector<int> all{events_->fd, endpoint_->context()->cmd_fd, endpoint_->context()->async_fd};
    for (auto& connection : endpoint_->connections())
      for (Completions* one : {&connection->sends(), &connection->receives()}) all.push_back(one->fd());
    return all;
  }

 private:
  void watch_peer() {
    for (;;) {
      pollfd entries[] = {{control_.get(), POLLIN | POLLRDHUP, 0},
                          {events_->fd, POLLIN, 0},
                          {endpoint_->context()->async_fd, POLLIN, 0},
                          {endpoint_->failed().fd(), POLLIN, 0},
                          {stop_.fd(), POLLIN, 0}};
      if (poll(entries, std::size(entries), -1) < 0) continue;
      if (entries[4].revents != 0) return;
      if (entries[2].revents != 0) async_events().take(endpoint_->context());
      if (entries[1].revents != 0) take_connection_events();
      // A hang-up; or bytes, which no peer in its right mind sends.
      if (entries[0].revents != 0) endpoint_->fail(peer_left());
      if (endpoint_->fate().gone()) break;
    }
    // What is still under way comes back at once, and the peer hears of it.
    for (auto& connection : endpoint_->connections()) connection->disconnect();
    shutdown(control_.get(), SHUT_RDWR);
  }

  void take_connection_events() {
    rdma_cm_event* event;
    while (loaded_verbs().rdma_get_cm_event(events_.get(), &event) == 0) {
      auto type = event->event;
      loaded_verbs().rdma_ack_cm_event(event);
      if (type == RDMA_CM_EVENT_DISCONNECTED) {
        endpoint_->fail(peer_left());
      } else if (type == RDMA_CM_EVENT_DEVICE_REMOVAL) {
        endpoint_->fail({StatusCode::kUnavailable, "the RDMA device was removed"});
      }
    }
  }

  void linger() {
    auto deadline = Clock::now() + kLinger;
    while (!endpoint_->fate().gone() && Clock::now() < deadline &&
           !(endpoint_->calls().drained() && endpoint_->side().drained() && endpoint_->bulk().drained()))
      std::this_thread::sleep_for(100us);
  }

  const Limits limits_{"rdma", false, true, limits::kBulkBlocks, kRdmaBulkChannels};
  EventChannel events_;
  std::unique_ptr<Endpoint> endpoint_;
  Fd control_;
  Wake stop_;
  Thread watcher_;
};

}  // namespace

Result<std::unique_ptr<Endpoint>> Endpoint::make(ibv_context* context, uint32_t bulk_channels) {
  std::unique_ptr<Endpoint> endpoint(new Endpoint(context, kStreams + bulk_channels));
  endpoint->pd_ = loaded_verbs().ibv_alloc_pd(context);
  if (!endpoint->pd_) return errno_status("the RDMA device gives no protection domain", errno);
  auto landing = Buffer::make(endpoint->pd_, kLandingBytes, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
  if (!landing.ok()) return landing.status();
  endpoint->landing_ = std::move(*landing);
  endpoint->bulk_ = std::make_unique<RdmaBulk>(bulk_channels, *endpoint->landing_, endpoint->pd_, endpoint->fate_,
                                               [self = endpoint.get()](const Status& why) { self->fail(why); });
  return endpoint;
}

Endpoint::~Endpoint() {
  if (bulk_) bulk_->stop();
  connections_.clear();  // nothing is under way any more that could touch the memory
  for (auto& stream : streams_) stream.reset();
  bulk_.reset();
  landing_.reset();
  if (pd_) loaded_verbs().ibv_dealloc_pd(pd_);
}

Status Endpoint::add(std::unique_ptr<Connection> connection, uint32_t channel) {
  Connection& added = *(connections_[channel] = std::move(connection));
  if (channel >= kStreams) {
    BF_RETURN_IF_ERROR(added.make_queue_pair(pd_, RdmaBulk::shape()));
    return bulk_->open(channel - kStreams, added);
  }
  const uint32_t credits = channel == 0 ? kCallsCredits : kSideCredits;
  BF_RETURN_IF_ERROR(added.make_queue_pair(pd_, RdmaStream::shape(credits)));
  streams_[channel] = std::make_unique<RdmaStream>(added, credits, fate_, [this](const Status& why) { fail(why); });
  return streams_[channel]->open(pd_);
}

int Endpoint::channel_of(const rdma_cm_id* id) const {
  for (size_t i = 0; i < connections_.size(); i++)
    if (connections_[i] && connections_[i]->id() == id) return int(i);
  return -1;
}

void Endpoint::fail(const Status& why) noexcept {
  if (!fate_.end(why)) return;
  failed_.raise();
  for (auto& stream : streams_)
    if (stream) stream->wake();
  bulk_->wake();
}

Result<std::unique_ptr<Link>> make_link(std::unique_ptr<Endpoint> endpoint, EventChannel events, Fd control) {
  auto link = std::make_unique<RdmaLink>(std::move(endpoint), std::move(events), std::move(control));
  BF_RETURN_IF_ERROR(link->watch());
  return std::unique_ptr<Link>(std::move(link));
}

Endpoint& endpoint_of(Link& link) { return static_cast<RdmaLink&>(link).endpoint(); }

}  // namespace rdma

Status rdma_available() { return rdma::usable_device(); }

RdmaMemory rdma_memory() {
  auto use = rdma::memory_use();
  return {use.regions, use.bytes};
}

}  // namespace bf::transport
