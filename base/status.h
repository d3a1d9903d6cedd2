// Operating failures: Status and Result<T>. The caller's mistakes are CUresults and our own bugs BF_CHECK; never mixed.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace bf {

enum class StatusCode : uint8_t {
  kOk = 0,
  kInvalid,      // bad input from a person, a file or the wire
  kUnavailable,  // the other end is gone or cannot be reached
  kTimeout,
  kDenied,       // not allowed: wrong secret, no permission
  kExhausted,    // a limit or quota is reached; may work later
  kImpossible,   // no server could ever satisfy the request
  kInternal,     // the operating system refused something that should work
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  // One sentence for a person, without a final newline: what failed and, where possible, what to do.
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status ok_status() { return {}; }
// kInternal (or kTimeout/kUnavailable where errno says so) with "what: strerror(error)".
Status errno_status(const std::string& what, int error);

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) {}
  bool ok() const { return state_.index() == 0; }
  Status status() const { return ok() ? Status{} : std::get<1>(state_); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  T* operator->() { return &value(); }

 private:
  std::variant<T, Status> state_;
};

// Ends the process with a message: our own bug. Never on anything the peer or the program controls.
[[noreturn]] void check_failed(const char* condition, const char* file, int line) noexcept;

}  // namespace bf

#define BF_CHECK(condition) \
  (__builtin_expect(!!(condition), 1) ? (void)0 : ::bf::check_failed(#condition, __FILE__, __LINE__))
#define BF_RETURN_IF_ERROR(expression)                  \
  do {                                                  \
    if (::bf::Status bf_status_ = (expression); !bf_status_.ok()) return bf_status_; \
  } while (0)
