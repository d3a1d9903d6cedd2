// Replaying a trace over another network: what must cost, and what must not.
#include "tools/predict.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

namespace bf::tools {
namespace {

constexpr Network kTraced{10, 0};        // 10 us, no limit
constexpr double kGigabyte = 1e9 / 1e6;  // a second, in bytes per us

// A program on a quick link: `think` before each call; `wait` is what the server and the link took.
class Program {
 public:
  void post(double think, double bytes = 0) { add(think, 0, bytes, 0, false); }
  void ask(double think, double wait) { add(think, wait, 0, 1, false); }
  void synchronise(double think, double wait) { add(think, wait, 0, 1, true); }
  std::vector<TracedCall> calls;

 private:
  void add(double think, double wait, double bytes, uint32_t round_trips, bool synchronises) {
    now_ += think;
    calls.push_back({now_, now_ + wait, wait, bytes, 0, round_trips, synchronises});
    now_ += wait;
  }
  double now_ = 100;
};

TEST(Predict, TheTracedNetworkGivesTheTracedTime) {
  Program program;
  for (int i = 0; i < 100; i++) {
    for (int k = 0; k < 20; k++) program.post(2);
    program.synchronise(2, 500);
  }
  const double traced = program.calls.back().end_us - program.calls.front().begin_us;
  EXPECT_NEAR(play(program.calls, kTraced, kTraced), traced, traced / 100);
}

TEST(Predict, QuestionsCostARoundTripEach) {
  Program program;
  for (int i = 0; i < 1000; i++) program.ask(5, 12);
  const double here = play(program.calls, kTraced, kTraced), there = play(program.calls, kTraced, {110, 0});
  EXPECT_NEAR(there - here, 1000 * 100, 1000);
}

TEST(Predict, LaunchesAheadOfTheGpuCostNothing) {
  Program program;  // 1000 launches of 100 us each, then one wait
  for (int i = 0; i < 1000; i++) program.post(2);
  program.synchronise(2, 98'000);
  const double here = play(program.calls, kTraced, kTraced), there = play(program.calls, kTraced, {1010, 0});
  EXPECT_NEAR(there - here, 1000, 20);
}

TEST(Predict, BytesThatComeFirstCannotHide) {
  Program program;  // a step: 10 MB, then 5 ms of work, then a wait
  for (int i = 0; i < 50; i++) {
    program.post(1, 10e6);
    for (int k = 0; k < 20; k++) program.post(2);
    program.synchronise(2, 5000);
  }
  const double here = play(program.calls, kTraced, kTraced), there = play(program.calls, kTraced, {10, kGigabyte});
  EXPECT_NEAR(there - here, 50 * 10'000, 50 * 100);
}

TEST(Predict, BytesAheadOfTimeHideBehindWork) {
  Program program;  // 20 steps of 10 MB and 20 ms of work each, waited for once
  for (int step = 0; step < 20; step++)
    for (int k = 0; k < 20; k++) program.post(2, k == 0 ? 10e6 : 0);
  program.synchronise(2, 400'000);
  const double here = play(program.calls, kTraced, kTraced), there = play(program.calls, kTraced, {10, kGigabyte});
  EXPECT_NEAR(there - here, 10'000, 500) << "only the first step's";
  // Until the line is the slower of the two.
  EXPECT_NEAR(play(program.calls, kTraced, {10, kGigabyte / 4}), 20 * 40'000, 20'000);
}

TEST(Predict, ReadsWhatTracesHold) {
  char path[] = "/tmp/predict-XXXXXX";
  const int file = mkstemp(path);
  ASSERT_GE(file, 0);
  std::ofstream(path) << R"([
{"name":"process_name","ph":"M","pid":5,"tid":0,"args":{"name":"x"}},
{"name":"cuMemcpyHtoDAsync_v2","cat":"post","ph":"X","pid":5,"tid":5,"ts":10.5,"dur":2.0,"args":{"posts":1,"round_trips":0,"wait_us":0.5,"bytes_up":5000,"bytes_down":0}},
{"name":"wait for the answer","cat":"wait","ph":"X","pid":5,"tid":5,"ts":10.5,"dur":1,"args":{}},
{"name":"cuStreamSynchronize","cat":"round trip","ph":"X","pid":5,"tid":5,"ts":20,"dur":30,"args":{"posts":0,"round_trips":1,"wait_us":29,"bytes_up":20,"bytes_down":20}},
{"name":"cuMemAlloc_v2","cat":"round trip","ph":"X","pid":6,"tid":6,"ts":1,"dur":30,"args":{"posts":0,"round_trips":1,"wait_us":29,"bytes_up":20,"bytes_down":20}},
{"name":"bf_end","ph":"M","pid":0,"tid":0,"args":{}}])";
  auto calls = read_trace(path);
  ASSERT_TRUE(calls.ok()) << calls.status().message();
  ASSERT_EQ(calls->size(), 2u) << "of the process with most calls";
  EXPECT_EQ((*calls)[0].bytes_up, 5000);
  EXPECT_FALSE((*calls)[0].synchronises);
  EXPECT_EQ((*calls)[1].wait_us, 29);
  EXPECT_TRUE((*calls)[1].synchronises);
  for (const char* text : {"", "{}", "[1, 2, \"x\", {}]", "[{\"args\":5}]"}) {
    std::ofstream(path) << text;
    EXPECT_FALSE(read_trace(path).ok()) << text;
  }
  close(file);
  remove(path);
}

}  // namespace
}  // namespace bf::tools
