// Splits a stream into frames, for whoever is done with each before it takes the next. (The worker's calls outlive their frames'
// receipt: server/worker/receive.h.)
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "proto/frame.h"

namespace bf {

class FrameBuffer {
 public:
  struct Frame {
    FrameHeader header;
    std::span<const std::byte> body, payload;  // valid until space() is asked for
  };
  enum class Next { kFrame, kIncomplete, kMalformed };

  // `bytes`: what it holds. It grows for a larger frame, and gives back afterwards what is over kKeepBytes.
  explicit FrameBuffer(size_t bytes) : usual_bytes_(bytes), buffer_(bytes) {}

  // Where the next bytes go; never empty once next() has said kIncomplete.
  std::span<std::byte> space() {
    std::memmove(buffer_.data(), buffer_.data() + at_, filled_ - at_);
    filled_ -= at_;
    at_ = 0;
    if (wanted_ > buffer_.size()) {
      buffer_.resize(wanted_);
    } else if (buffer_.size() > kKeepBytes && filled_ <= usual_bytes_ / 2 && wanted_ <= usual_bytes_) {
      buffer_.resize(usual_bytes_);
      buffer_.shrink_to_fit();
    }
    return std::span(buffer_).subspan(filled_);
  }
  // `bytes` have been put there.
  void filled(size_t bytes) { filled_ += bytes; }

  // Takes the next whole frame. `good` judges its header first, which bounds what is waited for: a stream with a bad one cannot be
  // trusted any further.
  template <typename Good>
  Next next(Frame& frame, Good good) {
    wanted_ = sizeof(FrameHeader);
    const size_t left = filled_ - at_;
    if (left < wanted_) return Next::kIncomplete;
    std::memcpy(&frame.header, buffer_.data() + at_, sizeof(FrameHeader));
    if (!good(frame.header)) return Next::kMalformed;
    wanted_ += size_t{frame.header.body_bytes} + frame.header.payload_bytes;
    if (left < wanted_) return Next::kIncomplete;
    frame.body = {buffer_.data() + at_ + sizeof(FrameHeader), frame.header.body_bytes};
    frame.payload = {frame.body.data() + frame.body.size(), frame.header.payload_bytes};
    at_ += wanted_;
    return Next::kFrame;
  }

 private:
  static constexpr size_t kKeepBytes = 1 << 20;

  const size_t usual_bytes_;
  std::vector<std::byte> buffer_;
  size_t at_ = 0;                         // bytes of the frames taken
  size_t filled_ = 0;                     // bytes received, those included
  size_t wanted_ = sizeof(FrameHeader);  // by the frame at at_, as far as is known
};

}  // namespace bf
