// bfserver's part in a managed pool: the commands of `bf cluster`, and what follows from them.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <thread>

#include "base/random.h"
#include "server/daemon/backup.h"
#include "server/daemon/daemon.h"
#include "server/daemon/log.h"

namespace bf::daemon {
namespace {

using nlohmann::json;

constexpr size_t kMembers = 3;                                // of an etcd that the pool runs itself
constexpr auto kStartTime = std::chrono::seconds(20);         // for an etcd that was just started
constexpr auto kRetry = std::chrono::milliseconds(300);
constexpr auto kLookAfterMembers = std::chrono::seconds(5);

// Until it is done, etcd refuses it, or kStartTime is over.
Status insist(const std::function<Status()>& action) {
  for (auto end = std::chrono::steady_clock::now() + kStartTime;; std::this_thread::sleep_for(kRetry)) {
    Status done = action();
    if (done.code() != StatusCode::kUnavailable || std::chrono::steady_clock::now() > end) return done;
  }
}

// Of an etcd that the pool runs itself: those that can be asked.
std::vector<std::string> endpoints_of(const std::vector<Etcd::Member>& members) {
  std::vector<std::string> endpoints;
  for (auto& member : members)
    if (!member.learner) endpoints.insert(endpoints.end(), member.client_urls.begin(), member.client_urls.end());
  std::sort(endpoints.begin(), endpoints.end());
  return endpoints;
}

const Etcd::Member* member_at(const std::vector<Etcd::Member>& members, const std::string& peer_url) {
  for (auto& member : members)
    if (std::find(member.peer_urls.begin(), member.peer_urls.end(), peer_url) != member.peer_urls.end()) return &member;
  return nullptr;
}

Status standalone() { return {StatusCode::kInvalid, "this server is not part of a managed pool: bf cluster init makes one"}; }

}  // namespace

// --- being part of one -----------------------------------------------------------------------------------------------

Status Daemon::start_managed(ClusterConfig config) {
  if (config.own_etcd)
    BF_RETURN_IF_ERROR(make_etcd_certificate(options_.state_dir, config.member ? config.member->host : describe().server_name));
  auto etcd = Etcd::open(access_of(config, options_.state_dir));
  if (!etcd.ok()) return etcd.status();
  if (config.member) {
    etcd_member_ = std::make_unique<EtcdMember>(loop_, *config.member, options_.state_dir);
    if (Status started = etcd_member_->start(); !started.ok()) return etcd_member_.reset(), started;
  }
  json facts = {{"name", describe().server_name}, {"addresses", addresses_}, {"version", BF_VERSION}};
  auto books = std::make_unique<PoolBooks>(std::move(*etcd), config.server_id, std::move(facts));
  for (auto& [id, lease] : leases_.all()) books->hold(claim_of(lease));
  ManagedState::Owner& owner = *this;
  auto managed = std::make_unique<ManagedState>(loop_, *store_, options_.state_dir, std::move(books), owner);
  BF_RETURN_IF_ERROR(managed->start());
  cluster_ = std::move(config);
  managed_ = managed.get();
  state_ = std::move(managed);
  if (cluster_->own_etcd) members_timer_ = loop_.after(kLookAfterMembers, [this] { look_after_members(); });
  return {};
}

void Daemon::stop_managed() {
  loop_.cancel(members_timer_);
  managed_ = nullptr;
  // Not at once: one of its answers may be what leads here.
  std::shared_ptr<SharedState> old = std::exchange(state_, std::make_unique<LocalState>(*store_, options_.state_dir));
  loop_.defer([old] {});
  etcd_member_.reset();
  cluster_.reset();
  forget_cluster(options_.state_dir);
}

void Daemon::on_configuration() {
  if (Status loaded = load_certificates(); !loaded.ok()) log::error("the certificates stay as they were: {}", loaded.message());
}

// A new member becomes a full one once it has caught up, and those that know the pool's members follow their changes.
void Daemon::look_after_members() {
  using Members = Result<std::vector<Etcd::Member>>;
  const std::string own = cluster_->member ? cluster_->member->peer_url() : "";
  managed_->ask<Members>(
      [own](PoolBooks& books) -> Members {
        auto members = books.etcd().members();
        if (!members.ok()) return members;
        const Etcd::Member* member = member_at(*members, own);
        if (member != nullptr && member->learner) (void)books.etcd().promote(member->id);  // refused until it is ready
        if (auto endpoints = endpoints_of(*members); !endpoints.empty() && endpoints != books.etcd().endpoints()) books.etcd().set_endpoints(endpoints);
        return members;
      },
      [this, own](Members members) {
        if (!cluster_) return;
        if (members.ok() && cluster_->member && member_at(*members, own) == nullptr) drop_member();
        if (auto endpoints = members.ok() ? endpoints_of(*members) : std::vector<std::string>(); !endpoints.empty() && endpoints != cluster_->endpoints) {
          cluster_->endpoints = endpoints;
          if (Status saved = save_cluster(*cluster_, options_.state_dir); !saved.ok()) log::warn("{}", saved.message());
        }
        members_timer_ = loop_.after(kLookAfterMembers, [this] { look_after_members(); });
      });
}

// Another server said that this one is gone for good, and it is not.
void Daemon::drop_member() {
  log::warn("this server's member of etcd was taken out of the pool (bf cluster leave {}); it stays part of the pool, without one", cluster_->member->name);
  etcd_member_.reset();
  forget_member(options_.state_dir);
  cluster_->member.reset();
  if (Status saved = save_cluster(*cluster_, options_.state_dir); !saved.ok()) log::warn("{}", saved.message());
}

// --- commands --------------------------------------------------------------------------------------------------------

// cluster init HOST PORT | init-at (payload: endpoints, ca, certificate, key) | invite NAME PEER-URL | join (payload: the
// invitation, with name, host and port of our member of etcd) | leave | dismiss NAME | status
void Daemon::run_cluster_command(const std::vector<std::string>& words, const std::string& payload, Answer answer) {
  auto is = [&](const char* verb, size_t count) { return words.size() == count && words[1] == verb; };
  if (is("status", 2)) return describe_cluster(std::move(answer));
  if (is("join", 2)) return join_cluster(payload, std::move(answer));
  ClusterConfig config;
  config.server_id = random_id();
  if (is("init", 4)) {
    const std::string name = describe().server_name;
    ClusterConfig::Member member{.name = name, .host = words[2].empty() ? name : words[2], .port = uint16_t(atoi(words[3].c_str()))};
    member.initial_cluster = name + "=" + member.peer_url();
    member.first = true;
    config.own_etcd = true;
    config.endpoints = {member.client_url()};
    config.member = member;
    return begin_cluster(std::move(config), {}, std::move(answer));
  }
  if (is("init-at", 2)) {
    json given = json::parse(payload, nullptr, false);
    try {
      config.endpoints = given.at("endpoints").get<std::vector<std::string>>();
      return begin_cluster(std::move(config), EtcdSecrets{given.at("ca"), given.at("certificate"), given.at("key")}, std::move(answer));
    } catch (const json::exception&) {
      return answer({StatusCode::kInvalid, "this names no etcd"}, {});
    }
  }
  if (managed_ == nullptr) return answer(standalone(), {});
  if (is("invite", 4)) return invite(words[2], words[3], std::move(answer));
  if (is("leave", 2)) return leave_cluster(std::move(answer));
  if (is("dismiss", 3)) return dismiss(words[2], std::move(answer));
  answer({StatusCode::kInvalid, "the server does not know this command; are versions different?"}, {});
}

void Daemon::begin_cluster(ClusterConfig config, const EtcdSecrets& secrets, Answer answer) {
  if (managed_ != nullptr) return answer({StatusCode::kInvalid, "this server is part of a managed pool already"}, {});
  Status prepared = save_etcd_secrets(secrets, options_.state_dir);
  const Configuration own = configuration_of(*store_, options_.state_dir);
  if (prepared.ok()) prepared = save_cluster(config, options_.state_dir);
  if (prepared.ok()) prepared = start_managed(config);
  if (!prepared.ok()) return stop_managed(), answer(prepared, {});
  managed_->ask<Status>([own](PoolBooks& books) { return insist([&] { return books.create(own); }); },
                        [this, answer](Status made) {
                          if (!made.ok()) return stop_managed(), answer(made, {});
                          log::info("the pool is a managed one now");
                          audit_.write("cluster-init", {});
                          answer({}, json{{"endpoints", cluster_->endpoints}}.dump());
                        });
}

void Daemon::invite(const std::string& name, const std::string& peer_url, Answer answer) {
  json invitation = {{"own_etcd", cluster_->own_etcd}, {"endpoints", cluster_->endpoints}};
  if (!cluster_->own_etcd) {
    EtcdSecrets secrets = load_etcd_secrets(options_.state_dir);
    invitation["etcd"] = {{"ca", secrets.ca}, {"certificate", secrets.certificate}, {"key", secrets.key}};
  }
  bool as_member = cluster_->own_etcd && !peer_url.empty();
  log::info("'{}' is invited into the pool", name);
  audit_.write("cluster-invite", {{"server", name}});
  managed_->ask<Result<json>>(
      [=](PoolBooks& books) -> Result<json> {
        if (Status fresh = books.refresh(); !fresh.ok()) return fresh;
        json full = invitation;
        full["backup"] = backup_of(books.configuration());
        if (!as_member) return full;
        auto members = books.etcd().members();
        if (!members.ok()) return members.status();
        const Etcd::Member* known = member_at(*members, peer_url);
        if (known == nullptr && members->size() >= kMembers) return full;
        if (known != nullptr && !known->name.empty())
          return Status{StatusCode::kInvalid, "etcd has a member at " + peer_url + " already; if it is gone for good: bf cluster leave " + known->name};
        if (known == nullptr) {  // etcd takes one at a time, and the next when all are well
          const Status busy{StatusCode::kExhausted, "another server's member of etcd is not ready yet; try again in a minute"};
          if (std::any_of(members->begin(), members->end(), [](const Etcd::Member& member) { return member.learner; })) return busy;
          members = books.etcd().add_learner(peer_url);
          if (!members.ok()) return members.status().message().find("unhealthy cluster") != std::string::npos ? busy : members.status();
        }
        std::string all;
        for (auto& member : *members)
          for (auto& url : member.peer_urls) all += (all.empty() ? "" : ",") + (url == peer_url ? name : member.name) + "=" + url;
        full["initial_cluster"] = all;
        return full;
      },
      [answer](Result<json> full) { full.ok() ? answer({}, full->dump()) : answer(full.status(), {}); });
}

void Daemon::join_cluster(const std::string& invitation, Answer answer) {
  if (managed_ != nullptr) return answer({StatusCode::kInvalid, "this server is part of a managed pool already"}, {});
  ClusterConfig config;
  config.server_id = random_id();
  Status prepared;
  try {
    json file = json::parse(invitation);
    config.own_etcd = file.at("own_etcd");
    config.endpoints = file.at("endpoints").get<std::vector<std::string>>();
    if (file.contains("initial_cluster"))
      config.member = {file.at("name"), file.at("host"), file.at("port"), file.at("initial_cluster"), false};
    auto all = read_backup(file.at("backup"), "the invitation");
    if (!all.ok()) return answer(all.status(), {});
    if (file.contains("etcd")) prepared = save_etcd_secrets({file["etcd"].at("ca"), file["etcd"].at("certificate"), file["etcd"].at("key")}, options_.state_dir);
    if (prepared.ok()) prepared = adopt(*all, *store_, options_.state_dir);
  } catch (const json::exception&) {
    return answer({StatusCode::kInvalid, "this is no invitation into a pool"}, {});
  }
  if (prepared.ok()) prepared = load_certificates();
  if (prepared.ok()) prepared = save_cluster(config, options_.state_dir);
  if (prepared.ok()) prepared = start_managed(config);
  if (!prepared.ok()) return stop_managed(), answer(prepared, {});
  managed_->ask<Status>([](PoolBooks& books) { return insist([&] { return books.keep(); }); },
                        [this, answer](Status entered) {
                          if (!entered.ok()) return stop_managed(), answer(entered, {});
                          log::info("this server is part of a managed pool now");
                          audit_.write("cluster-join", {});
                          answer({}, json{{"endpoints", cluster_->endpoints}, {"member", cluster_->member.has_value()}}.dump());
                        });
}

// Not while the others' etcd lives by this server's member; without a majority always, and the answer says what they could not be told.
void Daemon::leave_cluster(Answer answer) {
  const std::string own = cluster_->member ? cluster_->member->peer_url() : "", name = describe().server_name;
  managed_->ask<Status>(
      [own](PoolBooks& books) -> Status {
        if (Status majority = books.refresh(); !majority.ok()) return majority;
        auto members = books.etcd().members();
        if (!members.ok()) return members.status();
        const Etcd::Member* member = member_at(*members, own);
        Status removed = member == nullptr || members->size() == 1 ? ok_status() : books.etcd().remove_member(member->id);
        if (!removed.ok())
          return {StatusCode::kExhausted, "etcd would have no majority without this server's member (" + removed.message() +
                                              "): start the other servers' members, or take out who is gone for good with bf cluster leave NAME"};
        books.leave();
        return {};
      },
      [this, answer, name](Status told) {
        if (told.code() == StatusCode::kExhausted) return answer(told, {});
        stop_managed();
        log::info("this server has left the pool, and keeps a copy of its tokens and limits");
        audit_.write("cluster-leave", {});
        json left = {{"left", name}};
        if (!told.ok()) left["note"] = "the pool could not be told (" + told.message() + "); say on another server: bf cluster leave " + name;
        answer({}, left.dump());
      });
}

// A server that is gone for good.
void Daemon::dismiss(const std::string& name, Answer answer) {
  if (name == describe().server_name) return leave_cluster(std::move(answer));
  managed_->ask<Status>(
      [name](PoolBooks& books) -> Status {
        auto members = books.etcd().members();
        if (!members.ok()) return members.status();
        for (auto& member : *members)
          if (member.name == name) {
            Status removed = books.etcd().remove_member(member.id);
            return removed.code() == StatusCode::kUnavailable ? Status{StatusCode::kExhausted, removed.message()} : removed;
          }
        return {StatusCode::kInvalid, "etcd has no member '" + name + "'; a server without one is forgotten by itself when it is gone"};
      },
      [this, answer, name](Status removed) {
        if (removed.ok()) audit_.write("cluster-dismiss", {{"server", name}});
        answer(removed, json{{"left", name}}.dump());
      });
}

void Daemon::describe_cluster(Answer answer) {
  if (managed_ == nullptr) return answer({}, json{{"managed", false}}.dump());
  json status = {{"managed", true}, {"own_etcd", cluster_->own_etcd}, {"this", cluster_->server_id}};
  managed_->ask<json>(
      [status](PoolBooks& books) {
        json full = status;
        auto members = books.etcd().members();
        auto urls = books.etcd().endpoints();
        full["etcd"] = json::array();
        for (auto& url : urls) {
          json entry = {{"url", url}, {"well", books.etcd().well(url)}};
          if (members.ok())
            for (auto& member : *members)
              if (std::find(member.client_urls.begin(), member.client_urls.end(), url) != member.client_urls.end()) entry["name"] = member.name;
          full["etcd"].push_back(std::move(entry));
        }
        auto servers = books.servers();
        full["majority"] = servers.ok();
        full["servers"] = servers.ok() ? *servers : json::array();
        if (!servers.ok()) full["why"] = servers.status().message();
        return full;
      },
      [answer](json full) { answer({}, full.dump()); });
}

}  // namespace bf::daemon
