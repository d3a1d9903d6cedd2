// `bf smi` for a pool: what fits on a screen, and what is in it.
#include "tools/smi.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

namespace bf::tools {
namespace {

Answer server(const std::string& name, uint32_t gpus) {
  Answer answer;
  answer.server.host = name;
  answer.server.port = 56001;
  answer.status = ok_status();
  for (uint32_t i = 0; i < gpus; i++) {
    control::Gpu gpu;
    gpu.index = i;
    gpu.name = "NVIDIA H200";
    gpu.memory_bytes = uint64_t{143} << 30;
    gpu.used_bytes = uint64_t{i} << 30;
    gpu.healthy = gpu.sampled = true;
    gpu.temperature_c = 40 + i;
    gpu.power_mw = 350'900;
    gpu.power_limit_mw = 700'000;
    gpu.gpu_percent = 10 * i;
    answer.list.gpus.push_back(gpu);
  }
  return answer;
}

std::vector<std::string> lines(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> all;
  for (std::string line; std::getline(in, line);) all.push_back(line);
  return all;
}

TEST(Smi, TwentyServersAreOneScreen) {
  std::vector<Answer> answers;
  for (int i = 0; i < 20; i++) answers.push_back(server("gpu" + std::to_string(100 + i), 8));
  auto screen = lines(pool_text(answers, false));
  EXPECT_EQ(screen.size(), 21u);
  for (auto& line : screen) EXPECT_LE(line.size(), 132u) << line;
  EXPECT_NE(screen[1].find("8 x NVIDIA H200"), std::string::npos) << screen[1];
  EXPECT_NE(screen[1].find("0  10  20  30  40  50  60  70"), std::string::npos) << screen[1];
  EXPECT_NE(screen[1].find("2800"), std::string::npos) << "watts of all: " << screen[1];
}

TEST(Smi, AFewGpusAreShownOneByOne) {
  auto answer = server("gpu7", 2);
  answer.list.gpus[1].sampled = false;
  auto screen = lines(pool_text({answer}, false));
  ASSERT_EQ(screen.size(), 3u);
  EXPECT_NE(screen[1].find("350 / 700"), std::string::npos) << screen[1];
  EXPECT_NE(screen[2].find("-"), std::string::npos) << "without a reading nothing is claimed: " << screen[2];
  EXPECT_EQ(screen[2].find("350"), std::string::npos) << screen[2];
}

TEST(Smi, ColoursAreForTerminals) {
  auto answer = server("gpu7", 1);
  answer.list.gpus[0].temperature_c = 95;
  EXPECT_EQ(pool_text({answer}, false).find('\033'), std::string::npos);
  EXPECT_NE(pool_text({answer}, true).find("\033[31m95"), std::string::npos);
}

TEST(Smi, JsonKnowsWhatIsUnknown) {
  auto answer = server("gpu7", 2);
  answer.list.gpus[1].sampled = false;
  Answer silent;
  silent.server.host = "gpu8";
  silent.status = Status{StatusCode::kUnavailable, "no answer"};
  auto json = pool_json({answer, silent});
  EXPECT_EQ(json["servers"][0]["gpus"][0]["power_mw"], 350'900);
  EXPECT_TRUE(json["servers"][0]["gpus"][1]["power_mw"].is_null());
  EXPECT_EQ(json["servers"][1]["error"], "no answer");
}

}  // namespace
}  // namespace bf::tools
