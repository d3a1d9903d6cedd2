#include "proto/nvml/answers.h"

#include <gtest/gtest.h>

#include <set>

namespace bf::nvml {
namespace {

TEST(Answers, AreFoundByFunctionAndKeys) {
  Answers answers;
  ASSERT_TRUE(answers
                  .merge(control::encode_NvmlAnswers({{{name_id("f"), 1, 2, 0, 0, 0, std::string("\x2a", 1)},
                                                       {name_id("f"), 1, 3, 0, 0, 3, ""},
                                                       {name_id("g"), 0, 0, 0, 0, 0, "text"}}}))
                  .ok());
  EXPECT_EQ(answers.number<uint64_t>("f", {1, 2}), 42u) << "trailing zeros are cut off on the wire";
  EXPECT_EQ(answers.number<uint32_t>("f", {1, 2}, 4), 0u);
  EXPECT_EQ(answers.number<uint32_t>("f", {1, 3}), std::nullopt) << "an error is no number";
  EXPECT_EQ(answers.find(name_id("f"), {1, 3})->result, 3);
  EXPECT_EQ(answers.find(name_id("f"), {1, 4}), nullptr);
  EXPECT_EQ(answers.text("g"), "text");
}

TEST(Answers, NewerOnesReplaceOlderOnes) {
  Answers answers;
  ASSERT_TRUE(
      answers.merge(control::encode_NvmlAnswers({{{1, 0, 0, 0, 0, 0, "old"}, {2, 0, 0, 0, 0, 0, "kept"}}})).ok());
  ASSERT_TRUE(answers.merge(control::encode_NvmlAnswers({{{1, 0, 0, 0, 0, 0, "new"}}})).ok());
  EXPECT_EQ(answers.find(1, {})->value, "new");
  EXPECT_EQ(answers.find(2, {})->value, "kept");
  EXPECT_FALSE(answers.merge("\xff\xff\xff").ok());
  EXPECT_EQ(answers.find(1, {})->value, "new");
}

TEST(Answers, AreCutAtWholeOnes) {
  control::NvmlAnswers many;
  for (uint32_t i = 0; i < 500; i++) many.answers.push_back({i, 0, 0, 0, 0, 0, std::string(100, 'x')});
  std::string encoded = encode_answers(many, 10'000);
  EXPECT_LE(encoded.size(), 10'000u);
  Answers answers;
  ASSERT_TRUE(answers.merge(encoded).ok());
  EXPECT_NE(answers.find(50, {}), nullptr);
  EXPECT_EQ(answers.find(499, {}), nullptr);
}

TEST(Rows, AreSane) {
  std::set<uint32_t> ids;
  for (const Row& row : rows()) {
    SCOPED_TRACE(row.name);
    EXPECT_TRUE(ids.insert(row.id).second);
    EXPECT_EQ(row.id, name_id(row.name));
    EXPECT_LE(row.parameters.size(), kArguments);
    size_t keys = 0;
    for (const Parameter& parameter : row.parameters) {
      keys += parameter.kind == Kind::kKey || parameter.kind == Kind::kPeer || parameter.kind == Kind::kVersioned;
      for (auto& field : parameter.key_fields) keys += !field.values.empty();
      if (parameter.kind == Kind::kOut || parameter.kind == Kind::kArray || parameter.kind == Kind::kBuffer) {
        EXPECT_GT(parameter.bytes, 0);
      }
      if (parameter.kind == Kind::kVersioned) {
        EXPECT_FALSE(parameter.values.empty());
        for (uint32_t word : parameter.values) EXPECT_GT(version_bytes(word), 4u);
      }
    }
    EXPECT_LE(keys, kKeys);
  }
  EXPECT_GT(ids.size(), 100u);
}

}  // namespace
}  // namespace bf::nvml
