#include "client/nvml/relay.h"

#include <algorithm>
#include <cstring>

namespace bf::nvml {
namespace {

template <typename T>
T* pointer(uint64_t word) {
  return reinterpret_cast<T*>(word);
}

// An answer's value, read from the front; past its end there are zeros.
class Value {
 public:
  explicit Value(const std::string& bytes) : bytes_(bytes) {}
  void take(void* to, size_t bytes) {
    const size_t there = std::min(bytes, left());
    std::memcpy(to, bytes_.data() + at_, there);
    std::memset(static_cast<char*>(to) + there, 0, bytes - there);
    at_ += there;
  }
  void skip(size_t bytes) { at_ += std::min(bytes, left()); }
  size_t left() const { return bytes_.size() - at_; }

 private:
  const std::string& bytes_;
  size_t at_ = 0;
};

bool is_pointer(Kind kind) {
  return kind != Kind::kDevice && kind != Kind::kPeer && kind != Kind::kKey && kind != Kind::kLength &&
         kind != Kind::kArray;
}

// The question's keys, as the monitor forms them. False: a device that is none.
bool keys_of(const Row& row, const uint64_t* arguments, Keys& keys, bool& versioned) {
  size_t key = 0;
  for (size_t i = 0; i < row.parameters.size(); ++i) {
    const Parameter& parameter = row.parameters[i];
    if (parameter.kind == Kind::kKey) keys[key++] = uint32_t(arguments[i]);
    if (parameter.kind == Kind::kPeer) {
      DevicePointer peer;
      if (read_device(pointer<nvmlDevice_st>(arguments[i]), LeaseView::Want::kFacts, peer) != NVML_SUCCESS)
        return false;
      keys[key++] = peer->books.gpu_index;
    }
    if (parameter.kind == Kind::kVersioned) {
      versioned = true;
      std::memcpy(&keys[key++], pointer<char>(arguments[i]), 4);
      for (const auto& field : parameter.key_fields)
        if (!field.values.empty()) std::memcpy(&keys[key++], pointer<char>(arguments[i]) + field.offset, 4);
    }
  }
  return true;
}

// What the library says to a version that it does not know.
nvmlReturn_t unknown_version(const Row& row, const Answers& answers, const Keys& keys) {
  Keys unversioned{};
  size_t key = 0;
  for (const Parameter& parameter : row.parameters) {
    if (parameter.kind == Kind::kKey || parameter.kind == Kind::kPeer) unversioned[key] = keys[key], key++;
    if (parameter.kind == Kind::kVersioned) key++;
  }
  const Answer* answer = answers.find(row.id, unversioned);
  return answer != nullptr && answer->result != NVML_SUCCESS ? answer->result : NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
}

// Is there room for it? Nothing has been written yet.
nvmlReturn_t check_room(const Row& row, const uint64_t* arguments, const std::string& bytes) {
  Value value(bytes);
  for (size_t i = 0; i < row.parameters.size(); ++i) {
    const Parameter& parameter = row.parameters[i];
    if (parameter.kind == Kind::kOut || parameter.kind == Kind::kBuffer) value.skip(parameter.bytes);
    if (parameter.kind == Kind::kText && value.left() + 1 > uint32_t(arguments[i + 1]))
      return NVML_ERROR_INSUFFICIENT_SIZE;
    if (parameter.kind == Kind::kCount) {
      uint32_t count = 0;
      value.take(&count, sizeof count);
      auto* room = pointer<uint32_t>(arguments[i]);
      if (*room >= count) continue;
      *room = count;
      return NVML_ERROR_INSUFFICIENT_SIZE;
    }
  }
  return NVML_SUCCESS;
}

nvmlReturn_t deliver(const Row& row, const uint64_t* arguments, const std::string& bytes) {
  uint32_t count = 0;
  for (size_t i = 0; i < row.parameters.size(); ++i)
    if (row.parameters[i].kind == Kind::kArray && arguments[i] == 0) {
      // Only a question for the length may do without the array.
      for (size_t k = 0; k < row.parameters.size(); ++k)
        if (row.parameters[k].kind == Kind::kCount && *pointer<uint32_t>(arguments[k]) != 0)
          return NVML_ERROR_INVALID_ARGUMENT;
    }
  if (nvmlReturn_t error = check_room(row, arguments, bytes); error != NVML_SUCCESS) return error;
  Value value(bytes);
  for (size_t i = 0; i < row.parameters.size(); ++i) {
    const Parameter& parameter = row.parameters[i];
    char* to = pointer<char>(arguments[i]);
    switch (parameter.kind) {
      case Kind::kOut:
        if (to != nullptr)
          value.take(to, parameter.bytes);
        else
          value.skip(parameter.bytes);
        break;
      case Kind::kBuffer:
        value.take(to, std::min<size_t>(parameter.bytes, uint32_t(arguments[i + 1])));
        break;
      case Kind::kVersioned:
        value.take(to, version_bytes(*pointer<uint32_t>(arguments[i])));
        break;
      case Kind::kText:
        value.take(to, value.left() + 1);
        break;
      case Kind::kCount:
        value.take(&count, sizeof count);
        *pointer<uint32_t>(arguments[i]) = count;
        break;
      case Kind::kArray:
        value.take(to, size_t{count} * parameter.bytes);
        break;
      case Kind::kDevice:
      case Kind::kPeer:
      case Kind::kKey:
      case Kind::kLength:
        break;
    }
  }
  return NVML_SUCCESS;
}

}  // namespace

nvmlReturn_t relay_words(const Row& row, const uint64_t* arguments) {
  LeaseView* lease = view();
  if (lease == nullptr) return NVML_ERROR_UNINITIALIZED;
  nvmlDevice_t device = handle_of(0);  // any device's reading has the system's answers
  for (size_t i = 0; i < row.parameters.size(); ++i) {
    if (is_pointer(row.parameters[i].kind) && !row.parameters[i].optional && arguments[i] == 0)
      return NVML_ERROR_INVALID_ARGUMENT;
    if (row.parameters[i].kind == Kind::kDevice) device = pointer<nvmlDevice_st>(arguments[i]);
  }
  DevicePointer reading;
  const auto want = row.period_s > 0 ? LeaseView::Want::kSample : LeaseView::Want::kFacts;
  if (nvmlReturn_t error = read_device(device, want, reading); error != NVML_SUCCESS) return error;
  const Answers& answers = row.device ? *reading->answers : *reading->system;
  if (answers.empty()) return NVML_ERROR_UNKNOWN;  // the server's monitor has said nothing yet, or cannot
  Keys keys{};
  bool versioned = false;
  if (!keys_of(row, arguments, keys, versioned)) return NVML_ERROR_INVALID_ARGUMENT;
  const Answer* answer = answers.find(row.id, keys);
  if (answer == nullptr) return versioned ? unknown_version(row, answers, keys) : NVML_ERROR_INVALID_ARGUMENT;
  if (answer->result != NVML_SUCCESS) return answer->result;
  return deliver(row, arguments, answer->value);
}

}  // namespace bf::nvml
