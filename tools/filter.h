// --filter: which servers and GPUs a request may use. KEY OPERATOR VALUE, such as device.memory>=40000.
//
//   server.addr           address or CIDR range: =, !=
//   server.hostname       name: =, !=; the first label is enough, and gpu* matches a prefix
//   server.has-rdma       true or false: =, !=
//   server.cuda-version   version such as 12.4: all operators
//   server.driver-version version such as 580.65: all operators
//   device.name           GPU model: =, !=; some of its words are enough, and H2* matches a prefix
//   device.memory         MiB: all operators
//   device.id             index, or UUID (a prefix of one will do): =, !=
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "tools/survey.h"

namespace bf::tools {

class Filter {
 public:
  // kInvalid says what is wrong and lists what is possible.
  static Result<Filter> parse(const std::string& text);
  bool matches(const Answer& server, const control::Gpu& gpu) const;
  const std::string& text() const { return text_; }

 private:
  enum class Operator { kEqual, kUnequal, kLess, kAtMost, kGreater, kAtLeast };
  bool compares(int order) const;  // <0, 0, >0 as the server's value is less, equal, more

  std::string text_, key_, value_;
  Operator operator_ = Operator::kEqual;
};

// The UUIDs of the GPUs that all filters leave on this server.
std::vector<std::string> matching_gpus(const std::vector<Filter>& filters, const Answer& server);
// Of filters that together match nothing anywhere: says so, and what there is instead.
std::string no_match(const std::vector<Filter>& filters, const std::vector<Answer>& servers);

}  // namespace bf::tools
