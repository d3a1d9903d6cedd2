#include "proto/nvml/answers.h"

#include <algorithm>

namespace bf::nvml {

Status Answers::merge(std::string_view encoded) {
  auto decoded = control::decode_NvmlAnswers(control::as_bytes(encoded));
  if (!decoded.ok()) return decoded.status();
  for (auto& answer : decoded->answers)
    answers_[{answer.function, {answer.key1, answer.key2, answer.key3, answer.key4}}] = {int(answer.result),
                                                                                         std::move(answer.value)};
  return {};
}

const Answer* Answers::find(uint32_t function, const Keys& keys) const {
  auto found = answers_.find({function, keys});
  return found == answers_.end() ? nullptr : &found->second;
}

std::optional<std::string> Answers::text(std::string_view function) const {
  const Answer* answer = find(name_id(function), {});
  if (answer == nullptr || answer->result != 0) return std::nullopt;
  return answer->value;
}

std::string encode_answers(const control::NvmlAnswers& answers, size_t max_bytes) {
  std::string encoded = control::encode_NvmlAnswers(answers);
  if (encoded.size() <= max_bytes) return encoded;
  control::NvmlAnswers fewer = answers;
  while (encoded.size() > max_bytes) {
    fewer.answers.resize(fewer.answers.size() * max_bytes / (encoded.size() + 1));
    encoded = control::encode_NvmlAnswers(fewer);
  }
  return encoded;
}

}  // namespace bf::nvml
