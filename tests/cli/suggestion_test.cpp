#include "cli/suggestion.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibblecast {
namespace {

TEST(NearestWord, IsOneOfAFewLettersOrABeginning) {
  const std::vector<std::string> words = {"plan",    "quantize",     "dequantize",
                                          "--calib", "--calib-size", "--threads"};
  const std::pair<const char*, const char*> cases[] = {
      {"quant", "quantize"},
      {"qauntize", "quantize"},
      {"quantise", "quantize"},
      {"Plan", "plan"},
      {"plna", "plan"},
      {"dequantise", "dequantize"},
      {"--thread", "--threads"},
      {"--calib-sise", "--calib-size"},
      {"--calbi", "--calib"},
      {"--calib_size", "--calib-size"},
      {"x", ""},
      {"-x", ""},
      {"frobnicate", ""},
      {"", ""},
      {"--", ""},
  };
  for (const auto& [word, nearest] : cases) EXPECT_EQ(nearest_word(word, words), nearest) << word;
  EXPECT_EQ(nearest_word(std::string(100'000, 'a'), words), "");
}

}  // namespace
}  // namespace nibblecast
