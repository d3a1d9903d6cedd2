// Functions that device code expects from the system: vprintf, __assertfail, malloc and free; and the heap behind them.
#include <cinttypes>
#include <cstdio>
#include <map>

#include "softgpu/ptx/lower.h"
#include "softgpu/ptx/machine.h"

namespace bf::ptx {
namespace {

constexpr size_t kMaxFormat = 64 << 10, kMaxString = 64 << 10;

struct Call {
  Warp& w;
  const Inst& in;
  const uint32_t* words() const { return &w.frame->function->extra[in.extra]; }
  uint8_t* lane(int i) const { return w.local + size_t(i) * w.local_bytes + w.frame->local_base; }
  template <typename T>
  T argument(int i, uint32_t k) const {
    const uint32_t* arguments = words() + 1 + 2 * words()[0];
    T value{};
    memcpy(&value, lane(i) + arguments[1 + 2 * k], sizeof value);
    return value;
  }
  template <typename T>
  void result(int i, T value) const {
    if (words()[0]) memcpy(lane(i) + words()[1], &value, sizeof value);
  }
};

// One conversion of a format: "%-08.3lld" becomes flags "-08.3" and kind 'd'. False: not a conversion, print it as
// text.
struct Conversion {
  std::string flags;
  char kind = 0;
  bool wide = false;  // ll, l, z, j, t
  int stars = 0;
  size_t length = 0;
};
bool parse_conversion(std::string_view text, Conversion& c) {
  size_t at = 1;
  while (at < text.size() && std::string_view("-+ #0123456789.*").find(text[at]) != std::string_view::npos) {
    c.stars += text[at] == '*';
    c.flags.push_back(text[at++]);
  }
  while (at < text.size() && std::string_view("hlLqjzt").find(text[at]) != std::string_view::npos)
    c.wide |= text[at] != 'h' && text[at] != 'L', ++at;
  if (at >= text.size() || std::string_view("diouxXeEfFgGaAcsp").find(text[at]) == std::string_view::npos) return false;
  c.kind = text[at];
  c.length = at + 1;
  return c.stars <= 2 && c.flags.size() < 32;
}

// Arguments lie in memory as a C struct of promoted values: 4-byte ints, 8-byte everything else, naturally aligned.
class Printer {
 public:
  Printer(Warp& w, const Inst& in, int lane, uint64_t arguments) : w_(w), in_(in), lane_(lane), next_(arguments) {}

  // False after a fault.
  bool run(std::string_view format, std::string& out) {
    for (size_t i = 0; i < format.size();) {
      if (format[i] != '%') {
        out.push_back(format[i++]);
      } else if (i + 1 < format.size() && format[i + 1] == '%') {
        out.push_back('%');
        i += 2;
      } else {
        Conversion c;
        if (!parse_conversion(format.substr(i), c)) {
          out.push_back(format[i++]);
          continue;
        }
        if (!convert(c, out)) return false;
        ++count;
        i += c.length;
      }
    }
    return true;
  }
  int count = 0;

 private:
  template <typename T>
  bool fetch(T& value) {
    next_ = (next_ + sizeof(T) - 1) & ~uint64_t(sizeof(T) - 1);
    const uint8_t* p = resolve(w_, in_, Window::kGeneric, next_, sizeof(T), 1, false, lane_);
    if (!p) return false;
    memcpy(&value, p, sizeof value);
    next_ += sizeof(T);
    return true;
  }

  template <typename... A>
  void append(std::string& out, const std::string& spec, A... values) {
    char text[512];
    int n = snprintf(text, sizeof text, spec.c_str(), values...);
    if (n < int(sizeof text)) {
      out.append(text, size_t(n < 0 ? 0 : n));
      return;
    }
    std::string big(size_t(std::min(n, 1 << 20)) + 1, '\0');
    snprintf(big.data(), big.size(), spec.c_str(), values...);
    out.append(big.c_str());
  }

  bool convert(const Conversion& c, std::string& out) {
    std::string spec = "%";
    for (char f : c.flags) {
      int32_t star;
      if (f != '*') {
        spec.push_back(f);
        continue;
      }
      if (!fetch(star)) return false;
      spec += std::to_string(std::max(-9999, std::min(star, 9999)));
    }
    switch (c.kind) {
      case 'd':
      case 'i':
      case 'o':
      case 'u':
      case 'x':
      case 'X': {
        if (c.wide) {
          int64_t v;
          if (!fetch(v)) return false;
          append(out, spec + "ll" + c.kind, static_cast<long long>(v));
        } else {
          int32_t v;
          if (!fetch(v)) return false;
          append(out, spec + c.kind, v);
        }
        return true;
      }
      case 'c': {
        int32_t v;
        if (!fetch(v)) return false;
        append(out, spec + 'c', v);
        return true;
      }
      case 'p': {
        uint64_t v;
        if (!fetch(v)) return false;
        append(out, spec + 'p', reinterpret_cast<void*>(v));
        return true;
      }
      case 's': {
        uint64_t v;
        if (!fetch(v)) return false;
        std::string text = "(null)";
        if (v && !read_string(w_, in_, v, lane_, kMaxString, text)) return false;
        append(out, spec + 's', text.c_str());
        return true;
      }
      default: {
        double v;
        if (!fetch(v)) return false;
        append(out, spec + c.kind, v);
        return true;
      }
    }
  }

  Warp& w_;
  const Inst& in_;
  int lane_;
  uint64_t next_;
};

void call_vprintf(Warp& w, const Inst& in) {
  Call call{w, in};
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    std::string format, text;
    if (!read_string(w, in, call.argument<uint64_t>(i, 0), i, kMaxFormat, format)) return;
    Printer printer(w, in, i, call.argument<uint64_t>(i, 1));
    if (!printer.run(format, text)) return;
    if (!text.empty()) w.launch->environment->print(text);
    call.result<int32_t>(i, printer.count);
  }
}

void call_assertfail(Warp& w, const Inst& in) {
  Call call{w, in};
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    AssertFailure failure;
    if (!read_string(w, in, call.argument<uint64_t>(i, 0), i, kMaxString, failure.message) ||
        !read_string(w, in, call.argument<uint64_t>(i, 1), i, kMaxString, failure.file) ||
        !read_string(w, in, call.argument<uint64_t>(i, 3), i, kMaxString, failure.function))
      return;
    failure.line = call.argument<uint32_t>(i, 2);
    failure.where.block = w.block->position;
    failure.where.thread = {w.specials.tid[0][i], w.specials.tid[1][i], w.specials.tid[2][i]};
    w.launch->environment->assertion_failed(failure);
  }
  fault(w, in, LaunchCode::kAssert, __builtin_ctz(w.mask), "a device assertion failed");
}

void call_malloc(Warp& w, const Inst& in) {
  Call call{w, in};
  DeviceHeap* heap = w.launch->environment->heap;
  lanes(w.mask, [&](int i) { call.result<uint64_t>(i, heap ? heap->allocate(call.argument<uint64_t>(i, 0)) : 0); });
}

void call_free(Warp& w, const Inst& in) {
  Call call{w, in};
  DeviceHeap* heap = w.launch->environment->heap;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    uint64_t address = call.argument<uint64_t>(i, 0);
    if (address && !(heap && heap->release(address)))
      return fault(w, in, LaunchCode::kIllegalAddress, i, "free of an address that malloc did not return", address);
  }
}

}  // namespace

Handler builtin_handler(Builtin builtin) {
  switch (builtin) {
    case Builtin::kVprintf:
      return call_vprintf;
    case Builtin::kAssertfail:
      return call_assertfail;
    case Builtin::kMalloc:
      return call_malloc;
    default:
      return call_free;
  }
}

// First fit over free ranges, which merge when they touch.
struct DeviceHeap::State {
  std::mutex mutex;
  std::map<uint64_t, uint64_t> free;  // begin -> bytes
  std::map<uint64_t, uint64_t> used;
};

DeviceHeap::DeviceHeap(uint64_t base, uint64_t bytes) : state_(std::make_unique<State>()) {
  uint64_t begin = (base + 15) & ~uint64_t{15};
  if (base + bytes > begin + 16) state_->free[begin] = base + bytes - begin;
}
DeviceHeap::~DeviceHeap() = default;

uint64_t DeviceHeap::allocate(uint64_t bytes) {
  if (bytes == 0 || bytes > (uint64_t{1} << 46)) return 0;
  bytes = (bytes + 15) & ~uint64_t{15};
  std::lock_guard lock(state_->mutex);
  for (auto it = state_->free.begin(); it != state_->free.end(); ++it) {
    if (it->second < bytes) continue;
    uint64_t begin = it->first, rest = it->second - bytes;
    state_->free.erase(it);
    if (rest) state_->free[begin + bytes] = rest;
    state_->used[begin] = bytes;
    return begin;
  }
  return 0;
}

bool DeviceHeap::release(uint64_t address) {
  std::lock_guard lock(state_->mutex);
  auto it = state_->used.find(address);
  if (it == state_->used.end()) return false;
  uint64_t begin = it->first, bytes = it->second;
  state_->used.erase(it);
  auto next = state_->free.lower_bound(begin);
  if (next != state_->free.end() && begin + bytes == next->first)
    bytes += next->second, next = state_->free.erase(next);
  if (next != state_->free.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == begin) {
      before->second += bytes;
      return true;
    }
  }
  state_->free[begin] = bytes;
  return true;
}

}  // namespace bf::ptx
