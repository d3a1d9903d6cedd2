#include "server/daemon/etcd.h"

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#include <dlfcn.h>
#include <openssl/evp.h>

#include <algorithm>

namespace bf::daemon {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// gRPC's codes.
constexpr int kCancelled = 1, kDeadlineExceeded = 4, kNotFound = 5, kGrpcUnavailable = 14;

struct Curl {
  decltype(&::curl_easy_init) easy_init = nullptr;
  decltype(&::curl_easy_cleanup) easy_cleanup = nullptr;
  decltype(&::curl_easy_reset) easy_reset = nullptr;
  decltype(&::curl_easy_setopt) easy_setopt = nullptr;
  decltype(&::curl_easy_perform) easy_perform = nullptr;
  decltype(&::curl_easy_strerror) easy_strerror = nullptr;
  bool complete = false;
};

const Curl& libcurl() {
  static const Curl functions = [] {
    Curl f;
    void* library = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return f;
    auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      return function != nullptr;
    };
    f.complete = find(f.easy_init, "curl_easy_init") && find(f.easy_cleanup, "curl_easy_cleanup") &&
                 find(f.easy_reset, "curl_easy_reset") && find(f.easy_setopt, "curl_easy_setopt") &&
                 find(f.easy_perform, "curl_easy_perform") && find(f.easy_strerror, "curl_easy_strerror");
    return f;
  }();
  return functions;
}

std::string base64(const std::string& bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                             reinterpret_cast<const unsigned char*>(bytes.data()), int(bytes.size()));
  text.resize(size_t(size));
  return text;
}

std::string from_base64(const std::string& text) {
  std::string bytes(text.size() / 4 * 3, '\0');
  int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                             reinterpret_cast<const unsigned char*>(text.data()), int(text.size()));
  if (size < 0) return {};
  size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  bytes.resize(size_t(size) - padding);
  return bytes;
}

// The end of the range of all keys that begin with `prefix`.
std::string after_prefix(std::string prefix) {
  prefix.back()++;
  return prefix;
}

// The gateway writes 64-bit numbers as strings, and leaves zeroes out.
int64_t number(const json& object, const char* key) {
  auto found = object.find(key);
  if (found == object.end()) return 0;
  if (found->is_number()) return found->get<int64_t>();
  return found->is_string() ? ::strtoll(found->get_ref<const std::string&>().c_str(), nullptr, 10) : 0;
}

std::string text(const json& object, const char* key) {
  auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

const json& part(const json& object, const char* key) {
  static const json none = json::object();
  auto found = object.find(key);
  return found != object.end() && found->is_object() ? *found : none;
}

bool truth(const json& object, const char* key) {
  auto found = object.find(key);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

const json& list(const json& object, const char* key) {
  static const json none = json::array();
  auto found = object.find(key);
  return found != object.end() && found->is_array() ? *found : none;
}

std::vector<Etcd::Entry> entries_of(const json& range) {
  std::vector<Etcd::Entry> entries;
  for (auto& kv : list(range, "kvs"))
    entries.push_back({from_base64(text(kv, "key")), from_base64(text(kv, "value")), number(kv, "mod_revision"), number(kv, "lease")});
  return entries;
}

std::vector<Etcd::Member> members_of(const json& answer) {
  std::vector<Etcd::Member> members;
  for (auto& one : list(answer, "members")) {
    Etcd::Member member{.id = text(one, "ID"), .name = text(one, "name")};
    for (auto& url : list(one, "peerURLs"))
      if (url.is_string()) member.peer_urls.push_back(url);
    for (auto& url : list(one, "clientURLs"))
      if (url.is_string()) member.client_urls.push_back(url);
    member.learner = truth(one, "isLearner");
    members.push_back(std::move(member));
  }
  return members;
}

constexpr std::string_view kSays = "etcd: ";  // before what etcd itself gave as its reason

bool says_why(const Status& failure) { return failure.message().starts_with(kSays); }

struct Receiver {
  std::string body;
  const std::atomic<bool>& stopped;
};

size_t receive(char* data, size_t size, size_t count, void* context) {
  std::string& body = static_cast<Receiver*>(context)->body;
  if (body.size() + size * count > Etcd::kAnswerBytes) return 0;
  body.append(data, size * count);
  return size * count;
}

int may_go_on(void* context, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<Receiver*>(context)->stopped ? 1 : 0;
}

}  // namespace

// --- transactions ----------------------------------------------------------------------------------------------------

Etcd::Transaction& Etcd::Transaction::if_revision(const std::string& key, int64_t revision) {
  conditions_.push_back({{"target", "MOD"}, {"result", "EQUAL"}, {"key", base64(key)}, {"mod_revision", std::to_string(revision)}});
  return *this;
}

Etcd::Transaction& Etcd::Transaction::put(const std::string& key, const std::string& value, int64_t lease) {
  operations_.push_back({{"request_put", {{"key", base64(key)}, {"value", base64(value)}, {"lease", std::to_string(lease)}}}});
  return *this;
}

Etcd::Transaction& Etcd::Transaction::remove(const std::string& key) {
  operations_.push_back({{"request_delete_range", {{"key", base64(key)}}}});
  return *this;
}

Etcd::Transaction& Etcd::Transaction::remove_prefix(const std::string& prefix) {
  operations_.push_back({{"request_delete_range", {{"key", base64(prefix)}, {"range_end", base64(after_prefix(prefix))}}}});
  return *this;
}

Etcd::Transaction& Etcd::Transaction::read(const std::string& key) {
  operations_.push_back({{"request_range", {{"key", base64(key)}}}});
  return *this;
}

Etcd::Transaction& Etcd::Transaction::read_prefix(const std::string& prefix) {
  operations_.push_back({{"request_range", {{"key", base64(prefix)}, {"range_end", base64(after_prefix(prefix))}}}});
  return *this;
}

Result<Etcd::Outcome> Etcd::commit(const Transaction& transaction) {
  auto answer = call("kv/txn", {{"compare", transaction.conditions_}, {"success", transaction.operations_}});
  if (!answer.ok()) return answer.status();
  Outcome outcome;
  outcome.done = truth(*answer, "succeeded");
  outcome.revision = number(part(*answer, "header"), "revision");
  for (auto& response : list(*answer, "responses"))
    if (response.contains("response_range")) outcome.reads.push_back(entries_of(part(response, "response_range")));
  size_t reads = size_t(std::count_if(transaction.operations_.begin(), transaction.operations_.end(),
                                      [](auto& operation) { return operation.contains("request_range"); }));
  if (outcome.done && outcome.reads.size() != reads) return Status{StatusCode::kInvalid, "etcd answers in another form than expected"};
  return outcome;
}

// --- leases and members ----------------------------------------------------------------------------------------------

Result<int64_t> Etcd::grant(std::chrono::seconds time) {
  auto answer = call("lease/grant", {{"TTL", std::to_string(time.count())}});
  if (!answer.ok()) return answer.status();
  return number(*answer, "ID");
}

Status Etcd::keep_alive(int64_t lease) {
  auto answer = call("lease/keepalive", {{"ID", std::to_string(lease)}});
  if (!answer.ok()) return answer.status();
  return number(part(*answer, "result"), "TTL") > 0 ? ok_status() : Status{StatusCode::kDenied, "etcd: the lease has ended"};
}

Status Etcd::revoke(int64_t lease) { return call("lease/revoke", {{"ID", std::to_string(lease)}}).status(); }

Result<std::vector<Etcd::Member>> Etcd::members() {
  auto answer = call("cluster/member/list", json::object());
  if (!answer.ok()) return answer.status();
  return members_of(*answer);
}

Result<std::vector<Etcd::Member>> Etcd::add_learner(const std::string& peer_url) {
  auto answer = call("cluster/member/add", {{"peerURLs", {peer_url}}, {"isLearner", true}});
  if (!answer.ok()) return answer.status();
  return members_of(*answer);
}

Status Etcd::promote(const std::string& member_id) { return call("cluster/member/promote", {{"ID", member_id}}).status(); }

Status Etcd::remove_member(const std::string& member_id) { return call("cluster/member/remove", {{"ID", member_id}}).status(); }

bool Etcd::well(const std::string& endpoint) {
  auto answer = call_at(endpoint, "maintenance/status", "{}", kAnswerTime);
  return answer.ok() && number(*answer, "leader") != 0;
}

// --- HTTP ------------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Etcd>> Etcd::open(Access access) {
  if (access.endpoints.empty()) return Status{StatusCode::kInvalid, "no member of etcd is named"};
  if (!libcurl().complete)
    return Status{StatusCode::kUnavailable, "a managed pool needs libcurl (libcurl.so.4); install it: apt-get install libcurl4"};
  std::unique_ptr<Etcd> etcd(new Etcd(std::move(access)));
  etcd->curl_ = libcurl().easy_init();
  if (etcd->curl_ == nullptr) return Status{StatusCode::kInternal, "libcurl does not start"};
  return etcd;
}

Etcd::~Etcd() {
  if (curl_ != nullptr) libcurl().easy_cleanup(curl_);
}

void Etcd::set_endpoints(std::vector<std::string> endpoints) {
  access_.endpoints = std::move(endpoints);
  last_good_ = 0;
}

// The member that answered last is asked first.
Result<json> Etcd::call(const char* function, const json& request) {
  const std::string body = request.dump();
  const auto end = Clock::now() + kPatience;
  Status failure;
  for (size_t i = 0, count = access_.endpoints.size(); i < count; i++) {
    auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    if (left <= milliseconds(0)) break;
    size_t which = (last_good_ + i) % count;
    auto answer = call_at(access_.endpoints[which], function, body, std::min(left, kAnswerTime));
    if (answer.ok() || answer.status().code() != StatusCode::kUnavailable) {
      last_good_ = which;
      return answer;
    }
    // What a member says tells more than that another cannot be reached.
    if (!says_why(failure)) failure = answer.status();
  }
  last_good_ = (last_good_ + 1) % access_.endpoints.size();
  return failure;
}

Result<json> Etcd::call_at(const std::string& endpoint, const char* function, const std::string& body, milliseconds time) {
  const Curl& curl = libcurl();
  Receiver receiver{{}, stopped_};
  const std::string url = endpoint + "/v3/" + function;
  curl.easy_reset(curl_);  // connections stay open
  auto set = [&](CURLoption option, auto value) { curl.easy_setopt(curl_, option, value); };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_NOPROXY, "*");
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_POST, 1L);
  set(CURLOPT_POSTFIELDS, body.data());
  set(CURLOPT_POSTFIELDSIZE, long(body.size()));
  set(CURLOPT_CONNECTTIMEOUT_MS, long(kConnectTime.count()));
  set(CURLOPT_TIMEOUT_MS, long(time.count()));
  set(CURLOPT_WRITEFUNCTION, receive);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&receiver));
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, may_go_on);
  set(CURLOPT_XFERINFODATA, static_cast<void*>(&receiver));
  if (!access_.ca_file.empty()) set(CURLOPT_CAINFO, access_.ca_file.c_str());
  if (!access_.certificate_file.empty()) {
    set(CURLOPT_SSLCERT, access_.certificate_file.c_str());
    set(CURLOPT_SSLKEY, access_.key_file.c_str());
  }
  CURLcode sent = curl.easy_perform(curl_);
  if (sent != CURLE_OK) return Status{StatusCode::kUnavailable, endpoint + ": " + curl.easy_strerror(sent)};
  json answer = json::parse(receiver.body, nullptr, false);
  if (!answer.is_object()) return Status{StatusCode::kUnavailable, endpoint + " does not answer as etcd does"};
  auto code = number(answer, "code");
  if (code == 0 && !answer.contains("error")) return answer;
  std::string message = text(answer, "message").empty() ? text(answer, "error") : text(answer, "message");
  bool later = code == kCancelled || code == kDeadlineExceeded || code == kGrpcUnavailable;
  return Status{code == kNotFound ? StatusCode::kDenied : later ? StatusCode::kUnavailable : StatusCode::kInvalid,
                std::string(kSays) + (message.empty() ? "it refuses, and does not say why" : message)};
}

}  // namespace bf::daemon
