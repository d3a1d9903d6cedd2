// Harness of the generated exercises (api/exercise_N.cc): every call is made by its client encoder with random
// arguments, travels through libprotobuf (the oracle), is decoded by its dispatch entry, reaches a fake driver that
// records the arguments and answers at random, and comes back. Both directions must agree. Before the real run every
// truncation and many mutations of the body are dispatched, with the fakes reading all they are given; a sanitizer sees
// what goes wrong.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "api/driver_api.h"
#include "api/struct_handles.h"
#include "proto/api/call_channel.h"
#include "proto/api/call_context.h"

namespace bf::apitest {

inline constexpr uint64_t kReal = uint64_t(1) << 62;  // a real handle is its value with this bit turned over

// Handle tables that know everything.
class FakeCall : public server::Call {
 public:
  explicit FakeCall(const DriverApi& driver) : Call(nullptr, driver) {}
  bool resolve(HandleKind, uint64_t value, uint64_t& real) override {
    real = value ^ kReal;
    return true;
  }
  bool register_new(HandleKind kind, uint64_t value, uint64_t real) override {
    made.push_back({kind, value, real});
    return true;
  }
  void erase(HandleKind kind, uint64_t value) override { erased.push_back({kind, value, 0}); }
  void drop_transfer(uint64_t transfer) override { dropped.push_back(transfer); }
  uint64_t value_of(HandleKind, uint64_t real) override { return real ^ kReal; }

  struct Object {
    HandleKind kind;
    uint64_t value, real;
  };
  std::vector<Object> made, erased;
  std::vector<uint64_t> dropped;
};

using Random = std::mt19937_64;

// The answers of the fake driver: the same seed gives the same answers.
class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}
  template <typename T>
  T real_handle(HandleKind kind) {
    return T(Handle{kind, HandleMaker::kWorker, uint16_t(random_()), uint32_t(random_() & 0xffffff)}.pack() ^ kReal);
  }
  template <typename T>
  void fill(T* to, uint64_t count) {
    if (!to) return;
    auto* bytes = reinterpret_cast<unsigned char*>(to);
    uint64_t total = count;
    if constexpr (!std::is_void_v<T>) total *= sizeof(T);
    for (uint64_t i = 0; i < total; i++) bytes[i] = static_cast<unsigned char>(random_());
  }
  void fill_text(char* to, uint64_t bytes) {
    if (!to || bytes == 0) return;
    const uint64_t length = random_() % bytes;
    for (uint64_t i = 0; i < length; i++) to[i] = char('a' + random_() % 26);
    to[length] = 0;
  }
  template <typename T>
  T at_most(T limit) {
    return limit ? T(random_() % uint64_t(limit)) : T(0);
  }
  template <typename T>
  T extra() {
    static const std::byte kBytes[16] = {std::byte(7), std::byte(0), std::byte(9)};
    if constexpr (std::is_integral_v<T>)
      return T(random_());
    else
      return T(reinterpret_cast<typename T::pointer>(kBytes), random_() % 17);
  }

 private:
  Random random_;
};

// What the driver was called with, as bytes. On the client's side handles are recorded as they will be on the other.
class Record {
 public:
  explicit Record(FakeCall* translator = nullptr) : translator_(translator) {}
  std::string bytes;

  template <typename T>
  void value(const T& v) {
    bytes.append(reinterpret_cast<const char*>(&v), sizeof(v));
  }
  void handle(HandleKind kind, uint64_t v) {
    const bool special = v == 0 || (kind == HandleKind::kStream && v <= 2);
    value(translator_ && !special ? v ^ kReal : v);
  }
  template <typename T>
  void handles(HandleKind kind, const T* h, uint64_t count) {
    value(h != nullptr);
    for (uint64_t i = 0; h && i < count; i++) handle(kind, uint64_t(h[i]));
  }
  template <typename T>
  void array(const T* p, uint64_t count) {
    value(p != nullptr);
    if constexpr (std::is_void_v<T>) {
      if (p) bytes.append(static_cast<const char*>(p), count);
    } else {
      if (p) bytes.append(reinterpret_cast<const char*>(p), count * sizeof(T));
    }
  }
  void array(const std::byte* p, uint64_t count) {  // extra fields: an empty one is one that is not there
    value(count);
    if (count) bytes.append(reinterpret_cast<const char*>(p), count);
  }
  void array(const char* p, uint64_t count) { array(reinterpret_cast<const std::byte*>(p), count); }
  void text(const char* p) {
    value(p != nullptr);
    if (p) bytes.append(p, strlen(p) + 1);
  }
  template <typename T, typename... Tag>
  void structs(const T* p, uint64_t count, Tag... tag) {
    value(p != nullptr);
    for (uint64_t i = 0; p && i < count; i++) {
      T copy;
      std::memcpy(static_cast<void*>(&copy), &p[i], sizeof(T));
      if (translator_) server::structs_to_real(*translator_, &copy, 1, tag...);
      bytes.append(reinterpret_cast<const char*>(&copy), sizeof(T));
    }
  }

 private:
  FakeCall* translator_;
};

// One call under test. `oracle` re-encodes a body through libprotobuf (nullptr: none).
class Exercise {
 public:
  using Oracle = std::function<std::string(uint16_t opcode, bool reply, std::string_view body)>;
  Exercise(const DriverApi& driver, uint64_t seed, Oracle oracle);
  ~Exercise();

  // --- Random arguments
  bool flip() { return random_() % 4 != 0; }
  uint64_t small() { return random_() % 6; }
  template <typename T>
  T value() {
    T v;
    uint64_t bits = random_() % 3 ? random_() : random_() % 4;
    std::memcpy(&v, &bits, std::min(sizeof(v), sizeof(bits)));
    if constexpr (sizeof(T) > sizeof(bits)) fill(&v, sizeof(v));
    if constexpr (std::is_enum_v<T>) v = T(random_() % 8);
    return v;
  }
  template <typename T>
  T handle(HandleKind kind) {
    if (random_() % 5 == 0) return T(kind == HandleKind::kStream ? random_() % 3 : 0);
    return T(Handle{kind, HandleMaker::kClient, uint16_t(random_()), uint32_t(random_() & 0xffffff)}.pack());
  }
  template <typename T>
  std::unique_ptr<T[]> handles(HandleKind kind, uint64_t count) {
    auto all = std::make_unique<T[]>(count ? count : 1);
    for (uint64_t i = 0; i < count; i++) all[i] = handle<T>(kind);
    return all;
  }
  template <typename T>
  std::unique_ptr<T[]> array(uint64_t count) {
    auto all = std::make_unique<T[]>(count ? count : 1);
    fill(all.get(), count * sizeof(T));
    return all;
  }
  std::string text() {
    std::string s(random_() % 20, 'x');
    for (char& c : s) c = char('a' + random_() % 26);
    return s;
  }
  client::Payload payload();
  std::span<const std::byte> payload_out;

  // --- Expectations
  void expect(const std::function<void(Record&)>& record);
  bool check_call(CUresult result);  // false: the call was to fail and did
  void replay(const std::function<void(Generator&)>& fill);
  template <typename T>
  std::unique_ptr<T[]> copy(const void* from, uint64_t count) {
    auto all = std::make_unique<T[]>(count ? count : 1);
    if (from) std::memcpy(static_cast<void*>(all.get()), from, count * sizeof(T));
    return all;
  }
  void check_new(HandleKind kind, uint64_t value, uint64_t real);
  void check_made(HandleKind kind, uint64_t value);
  void check_text(const char* got, const char* want) {
    if (got && want) {
      EXPECT_STREQ(got, want) << name;
    }
  }
  template <typename T>
  void to_values(HandleKind kind, T* handles, uint64_t count) {
    if (handles) server::all_to_value(*call_, kind, handles, count);
  }
  template <typename T, typename... Tag>
  void structs_to_values(T* structs, uint64_t count, Tag... tag) {
    if (structs) server::structs_to_value(*call_, structs, count, tag...);
  }
  template <typename T>
  void check_equal(const char* what, const T* got, const void* want, uint64_t count) {
    if (!got || !want) return;
    size_t size = 1;
    if constexpr (!std::is_void_v<T>) size = sizeof(T);
    EXPECT_EQ(0, std::memcmp(got, want, count * size)) << name << ": " << what << " came back different";
  }
  template <typename T>
  void check_extra(const char* what, const T& got, const T& want) {
    if constexpr (std::is_integral_v<T>)
      EXPECT_EQ(got, want) << name << ": " << what;
    else
      EXPECT_TRUE(got.size() == want.size() && std::memcmp(got.data(), want.data(), got.size()) == 0)
          << name << ": " << what;
  }

  // --- The channel (proto/api/call_channel.h), see fake_channel.cc
  std::byte* begin(size_t body_bound);
  CUresult finish(uint16_t opcode, uint16_t flags, size_t body_bytes, const client::Payload& payload,
                  client::Reply* reply);

  const char* name = "";
  bool expect_twin = false;
  CUresult driver_result = CUDA_SUCCESS;
  bool cut_reply = false;  // hand the client a reply that is cut somewhere: it must only not crash

 private:
  void fill(void* to, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) static_cast<unsigned char*>(to)[i] = static_cast<unsigned char>(random_());
  }
  void attack(uint16_t opcode, uint16_t flags, std::string_view body, std::string_view payload);

  const DriverApi& driver_;
  Random random_;
  Oracle oracle_;
  std::unique_ptr<FakeCall> call_;
  std::unique_ptr<std::byte[]> buffer_;
  size_t bound_ = 0;
  std::string expected_, payload_bytes_, reply_bytes_;
  iovec parts_[2];
  std::vector<uint64_t> handles_made_;
  uint64_t answer_seed_ = 0;
  bool cut_ = false;
  friend uint64_t make_test_handle(HandleKind kind);
};

// While one lives, the fakes expect nothing of their arguments.
class HostileDriver {
 public:
  HostileDriver();
  ~HostileDriver();
};

// Called by the fakes.
CUresult driver_was_called(const Record& record, const std::function<void(Generator&)>& fill);
void note_twin();

}  // namespace bf::apitest
