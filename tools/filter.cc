#include "tools/filter.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>
#include <set>

namespace bf::tools {
namespace {

enum class Kind { kAddress, kName, kBool, kVersion, kNumber, kId };

const std::map<std::string, Kind>& kinds() {
  static const std::map<std::string, Kind> all = {
      {"server.addr", Kind::kAddress},         {"server.hostname", Kind::kName},
      {"server.has-rdma", Kind::kBool},        {"server.cuda-version", Kind::kVersion},
      {"server.driver-version", Kind::kVersion}, {"device.name", Kind::kName},
      {"device.memory", Kind::kNumber},        {"device.id", Kind::kId},
  };
  return all;
}

std::string lower(std::string text) {
  for (char& c : text) c = char(tolower(uint8_t(c)));
  return text;
}

std::optional<std::vector<uint64_t>> version_of(const std::string& text) {
  std::vector<uint64_t> parts;
  for (const char* at = text.data(), *end = at + text.size();;) {
    uint64_t part = 0;
    auto [next, error] = std::from_chars(at, end, part);
    if (error != std::errc{}) return std::nullopt;
    parts.push_back(part);
    if (next == end) return parts;
    if (*next != '.') return std::nullopt;
    at = next + 1;
  }
}

// 12 equals 12.0, and is less than 12.4.
int compare_versions(std::vector<uint64_t> a, std::vector<uint64_t> b) {
  size_t parts = std::max(a.size(), b.size());
  a.resize(parts), b.resize(parts);
  return a < b ? -1 : a == b ? 0 : 1;
}

struct Range {
  int family = AF_UNSPEC;
  unsigned char bytes[16] = {};
  unsigned bits = 0;
};

std::optional<Range> range_of(const std::string& text) {
  Range range;
  size_t slash = text.find('/');
  std::string address = text.substr(0, slash);
  range.family = address.find(':') == std::string::npos ? AF_INET : AF_INET6;
  if (::inet_pton(range.family, address.c_str(), range.bytes) != 1) return std::nullopt;
  unsigned most = range.family == AF_INET ? 32 : 128;
  range.bits = most;
  if (slash != std::string::npos) {
    const char* end = text.data() + text.size();
    auto [next, error] = std::from_chars(text.data() + slash + 1, end, range.bits);
    if (error != std::errc{} || next != end || range.bits > most) return std::nullopt;
  }
  return range;
}

bool inside(const Range& range, const std::string& address) {
  auto one = range_of(address);
  if (!one || one->family != range.family) return false;
  unsigned whole = range.bits / 8, rest = range.bits % 8;
  if (memcmp(one->bytes, range.bytes, whole) != 0) return false;
  return rest == 0 || (one->bytes[whole] ^ range.bytes[whole]) >> (8 - rest) == 0;
}

// `wanted` stands in `name` from the start of a word to the end of one, or up to '*'. Words of host names end at dots
// and only the first counts.
bool name_matches(const std::string& name, std::string wanted, bool host) {
  bool prefix = !wanted.empty() && wanted.back() == '*';
  if (prefix) wanted.pop_back();
  auto ends_word = [&](size_t at) { return at == name.size() || (host ? name[at] == '.' : !isalnum(uint8_t(name[at]))); };
  for (size_t at = name.find(wanted); at != std::string::npos; at = name.find(wanted, at + 1)) {
    bool starts_word = at == 0 || (!host && !isalnum(uint8_t(name[at - 1])));
    if (starts_word && (prefix || ends_word(at + wanted.size()))) return true;
  }
  return false;
}

Status wrong(const std::string& text, const std::string& why) {
  return {StatusCode::kInvalid, "the filter '" + text + "' " + why};
}

}  // namespace

Result<Filter> Filter::parse(const std::string& text) {
  Filter filter;
  filter.text_ = text;
  size_t at = text.find_first_of("=!<>");
  if (at == std::string::npos) return wrong(text, "has no operator; write for example device.memory>=40000");
  filter.key_ = text.substr(0, at);
  static const std::pair<const char*, Operator> operators[] = {
      {"!=", Operator::kUnequal}, {"<=", Operator::kAtMost}, {">=", Operator::kAtLeast},
      {"=", Operator::kEqual},    {"<", Operator::kLess},    {">", Operator::kGreater}};
  auto found = std::find_if(std::begin(operators), std::end(operators),
                            [&](auto& entry) { return text.compare(at, strlen(entry.first), entry.first) == 0; });
  if (found == std::end(operators)) return wrong(text, "has an unknown operator; there are = != < <= > >=");
  filter.operator_ = found->second;
  filter.value_ = text.substr(at + strlen(found->first));
  auto kind = kinds().find(filter.key_);
  if (kind == kinds().end()) {
    std::string known;
    for (auto& [key, unused] : kinds()) known += (known.empty() ? "" : ", ") + key;
    return wrong(text, "has an unknown key; there are " + known);
  }
  const std::string& value = filter.value_;
  if (value.empty()) return wrong(text, "has no value");
  bool ordered = kind->second == Kind::kVersion || kind->second == Kind::kNumber;
  if (!ordered && filter.operator_ != Operator::kEqual && filter.operator_ != Operator::kUnequal)
    return wrong(text, "can never match: " + filter.key_ + " has no order, only = and !=");
  if (kind->second == Kind::kAddress && !range_of(value))
    return wrong(text, "can never match: write an address or a range such as 10.0.0.0/24");
  if (kind->second == Kind::kBool && value != "true" && value != "false")
    return wrong(text, "can never match: write true or false");
  if (kind->second == Kind::kVersion && !version_of(value))
    return wrong(text, "can never match: write a version such as 12.4");
  if (kind->second == Kind::kNumber && (!version_of(value) || version_of(value)->size() != 1))
    return wrong(text, "can never match: write a number of MiB");
  return filter;
}

bool Filter::compares(int order) const {
  switch (operator_) {
    case Operator::kEqual:
      return order == 0;
    case Operator::kUnequal:
      return order != 0;
    case Operator::kLess:
      return order < 0;
    case Operator::kAtMost:
      return order <= 0;
    case Operator::kGreater:
      return order > 0;
    case Operator::kAtLeast:
      return order >= 0;
  }
  return false;
}

bool Filter::matches(const Answer& server, const control::Gpu& gpu) const {
  const control::ListReply& list = server.list;
  auto equal = [&](bool equal) { return compares(equal ? 0 : 1); };
  auto version = [&](const std::string& has) {
    auto parts = version_of(has);
    return parts && compares(compare_versions(*parts, *version_of(value_)));
  };
  if (key_ == "server.addr") {
    std::string address = server.remote != nullptr ? server.remote->numeric_address() : server.server.host;
    return equal(inside(*range_of(value_), address));
  }
  if (key_ == "server.hostname") return equal(name_matches(lower(list.server_name), lower(value_), true));
  if (key_ == "server.has-rdma") {
    bool has = std::find(list.transports.begin(), list.transports.end(), "rdma") != list.transports.end();
    return equal(has == (value_ == "true"));
  }
  if (key_ == "server.cuda-version")
    return version(std::to_string(list.driver_version / 1000) + "." + std::to_string(list.driver_version % 1000 / 10));
  if (key_ == "server.driver-version") return version(list.driver);
  if (key_ == "device.name") return equal(name_matches(lower(gpu.name), lower(value_), false));
  if (key_ == "device.memory") return version(std::to_string(gpu.memory_bytes >> 20));
  return equal(value_ == std::to_string(gpu.index) || (value_.size() > 4 && lower(gpu.uuid).starts_with(lower(value_))));
}

std::vector<std::string> matching_gpus(const std::vector<Filter>& filters, const Answer& server) {
  std::vector<std::string> uuids;
  for (auto& gpu : server.list.gpus)
    if (std::all_of(filters.begin(), filters.end(), [&](auto& filter) { return filter.matches(server, gpu); }))
      uuids.push_back(gpu.uuid);
  return uuids;
}

std::string no_match(const std::vector<Filter>& filters, const std::vector<Answer>& servers) {
  auto anywhere = [&](const std::vector<Filter>& some) {
    return std::any_of(servers.begin(), servers.end(),
                       [&](auto& server) { return server.status.ok() && !matching_gpus(some, server).empty(); });
  };
  std::set<std::string> names;
  for (auto& server : servers)
    for (auto& gpu : server.list.gpus)
      names.insert(printable(gpu.name) + " with " + std::to_string(gpu.memory_bytes >> 20) + " MiB");
  std::string has;
  for (auto& name : names) has += (has.empty() ? "" : ", ") + name;
  for (auto& filter : filters)
    if (!anywhere({filter})) return "no GPU of any server matches the filter " + filter.text() + "; there are: " + has;
  return "no GPU of any server matches all filters together; there are: " + has;
}

}  // namespace bf::tools
