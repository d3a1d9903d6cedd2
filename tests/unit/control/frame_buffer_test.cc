#include "proto/frame_buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

namespace bf {
namespace {

constexpr size_t kBytes = 256;

void add_frame(std::string& stream, uint16_t opcode, const std::string& body, const std::string& payload) {
  FrameHeader header{uint32_t(body.size()), uint32_t(payload.size()), opcode, 0, 0};
  stream.append(reinterpret_cast<const char*>(&header), sizeof header);
  stream += body + payload;
}

std::string text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// Puts as much of `stream` there as fits and `most` allows.
void put(FrameBuffer& frames, std::string& stream, size_t most) {
  auto space = frames.space();
  ASSERT_FALSE(space.empty());
  const size_t bytes = std::min({most, space.size(), stream.size()});
  std::memcpy(space.data(), stream.data(), bytes);
  stream.erase(0, bytes);
  frames.filled(bytes);
}

TEST(FrameBuffer, FramesComeWholeWhateverThePiecesAndTheSizes) {
  for (size_t most : {1, 7, 16, 100, 256, 5000, 1 << 21}) {
    std::mt19937 random{uint32_t(most)};
    std::vector<std::pair<std::string, std::string>> sent;
    std::string stream;
    for (int i = 0; i < 60; i++) {
      const size_t sizes[] = {0, random() % 40, kBytes - sizeof(FrameHeader), 5000};
      sent.emplace_back(std::string(sizes[random() % 4], char('a' + i % 26)), std::string(sizes[random() % 4], char('A' + i % 26)));
      add_frame(stream, uint16_t(i + 1), sent.back().first, sent.back().second);
    }
    FrameBuffer frames(kBytes);
    size_t got = 0;
    while (!stream.empty()) {
      put(frames, stream, most);
      FrameBuffer::Next next;
      for (FrameBuffer::Frame frame; (next = frames.next(frame, frame_header_ok)) == FrameBuffer::Next::kFrame; got++) {
        ASSERT_LT(got, sent.size());
        EXPECT_EQ(frame.header.opcode, got + 1);
        EXPECT_EQ(text(frame.body), sent[got].first);
        EXPECT_EQ(text(frame.payload), sent[got].second);
      }
      ASSERT_EQ(next, FrameBuffer::Next::kIncomplete);
    }
    EXPECT_EQ(got, sent.size()) << most;
  }
}

TEST(FrameBuffer, WhatALargeFrameNeededIsGivenBack) {
  FrameBuffer frames(kBytes);
  std::string stream;
  add_frame(stream, 1, "", std::string(3 << 20, 'x'));
  add_frame(stream, 2, "small", "");
  FrameBuffer::Frame frame;
  for (int pieces = 0; frames.next(frame, frame_header_ok) != FrameBuffer::Next::kFrame; pieces++) {
    ASSERT_LT(pieces, 3);
    put(frames, stream, stream.size());
  }
  EXPECT_EQ(frame.payload.size(), size_t{3} << 20);
  EXPECT_EQ(frames.next(frame, frame_header_ok), FrameBuffer::Next::kIncomplete);
  EXPECT_EQ(frames.space().size(), kBytes);
  put(frames, stream, stream.size());
  ASSERT_EQ(frames.next(frame, frame_header_ok), FrameBuffer::Next::kFrame);
  EXPECT_EQ(text(frame.body), "small");
}

TEST(FrameBuffer, ABadHeaderIsToldBeforeAnythingIsHeldForIt) {
  FrameBuffer frames(kBytes);
  FrameHeader lie{~uint32_t{0}, ~uint32_t{0}, 1, 0, 0};
  std::string stream;
  add_frame(stream, 1, "good", "");
  stream.append(reinterpret_cast<const char*>(&lie), sizeof lie);
  put(frames, stream, stream.size());
  FrameBuffer::Frame frame;
  EXPECT_EQ(frames.next(frame, frame_header_ok), FrameBuffer::Next::kFrame);
  EXPECT_EQ(frames.next(frame, frame_header_ok), FrameBuffer::Next::kMalformed);
  EXPECT_EQ(frames.next(frame, frame_header_ok), FrameBuffer::Next::kMalformed);
}

}  // namespace
}  // namespace bf
