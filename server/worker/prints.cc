#include "server/worker/prints.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace bf::server {
namespace {

constexpr size_t kSliceBytes = 16 << 10;

FILE*& standard(int i) { return i == 0 ? stdout : stderr; }

}  // namespace

Result<Prints> Prints::capture() {
  Prints prints;
  for (int i = 0; i < 2; ++i) {
    auto& text = prints.texts_[size_t(i)] = std::make_unique<Text>();
    const cookie_io_functions_t functions{
        .read = nullptr,
        .write = [](void* to, const char* bytes, size_t count) -> ssize_t {
          auto& text = *static_cast<Text*>(to);
          std::lock_guard guard(text.mutex);
          text.bytes.append(bytes, count);
          text.anything.store(true, std::memory_order_release);
          return ssize_t(count);
        },
        .seek = nullptr,
        .close = nullptr,
    };
    text->file = fopencookie(text.get(), "w", functions);
    if (!text->file) return errno_status("capturing standard output", errno);
    text->before = std::exchange(standard(i), text->file);
  }
  return prints;
}

Prints::~Prints() {
  for (int i = 0; i < 2; ++i) {
    if (!texts_[size_t(i)] || !texts_[size_t(i)]->file) continue;
    standard(i) = texts_[size_t(i)]->before;
    fclose(texts_[size_t(i)]->file);
  }
}

void Prints::collect(const std::function<void(int, std::span<const std::byte>)>& send) {
  for (int i = 0; i < 2; ++i) {
    Text& text = *texts_[size_t(i)];
    fflush(text.file);
    if (!text.anything.load(std::memory_order_acquire)) continue;
    std::string bytes;
    {
      std::lock_guard guard(text.mutex);
      bytes.swap(text.bytes);
      text.anything.store(false, std::memory_order_relaxed);
    }
    const auto all = std::as_bytes(std::span(bytes));
    for (size_t at = 0; at < all.size(); at += kSliceBytes) send(i + 1, all.subspan(at, std::min(kSliceBytes, all.size() - at)));
  }
}

}  // namespace bf::server
