// What a vendor's NVML answered, to be looked up: every answer of one GPU (or of the system), by function and keys.
#pragma once

#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "proto/control.h"
#include "proto/nvml/row.h"

namespace bf::nvml {

using Keys = std::array<uint32_t, kKeys>;

struct Answer {
  int result = 0;  // nvmlReturn_t
  std::string value;
};

// Field values (nvmlDeviceGetFieldValues) travel as answers of this function: keys are the field's id and its scope,
// the value is a FieldAnswer.
inline constexpr uint32_t kFieldFunction = name_id("nvmlDeviceGetFieldValues");
struct FieldAnswer {
  uint32_t type = 0;  // nvmlValueType_t
  uint32_t unused = 0;
  uint64_t value = 0;
};

class Answers {
 public:
  // Takes encoded NvmlAnswers in; newer answers replace older ones. kInvalid, and nothing changed, if they are
  // malformed.
  Status merge(std::string_view encoded);
  bool empty() const { return answers_.empty(); }

  // nullptr if the library was not asked this.
  const Answer* find(uint32_t function, const Keys& keys) const;
  // The number at `offset` of a successful answer's value.
  template <typename T>
  std::optional<T> number(std::string_view function, const Keys& keys = {}, size_t offset = 0) const {
    const Answer* answer = find(name_id(function), keys);
    if (answer == nullptr || answer->result != 0) return std::nullopt;
    T value{};
    if (offset < answer->value.size())
      std::memcpy(&value, answer->value.data() + offset, std::min(sizeof(T), answer->value.size() - offset));
    return value;
  }
  // A successful answer's text.
  std::optional<std::string> text(std::string_view function) const;

 private:
  std::map<std::pair<uint32_t, Keys>, Answer> answers_;
};

// As many of the answers as fit into `max_bytes`, encoded; the rest is left out.
std::string encode_answers(const control::NvmlAnswers& answers, size_t max_bytes);

}  // namespace bf::nvml
