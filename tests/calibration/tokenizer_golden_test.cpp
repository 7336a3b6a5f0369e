// Small tokenizers with the ids that Hugging Face's library gives (tools/make_tokenizer_golden.py).
#include <algorithm>
#include <filesystem>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "calibration/tokenizer.h"
#include "plain_file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::TemporaryFolder;
using testing::write_plainly;
using Ids = std::vector<int32_t>;

const std::filesystem::path kGolden =
    std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/calibration/golden";

class TokenizerGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(TokenizerGolden, GivesTheLibrarysIds) {
  const std::string file = (kGolden / (GetParam() + ".json")).string();
  const Json golden = parse_json(read_text(system_files(), file, 1 << 20), file);
  const TemporaryFolder folder;
  write_plainly(folder.path() / "tokenizer.json", golden["tokenizer"].dump());
  const Tokenizer tokenizer = Tokenizer::load(system_files(), folder.path() / "tokenizer.json");
  ASSERT_GT(golden["cases"].size(), 40u);
  for (const Json& expected : golden["cases"]) {
    const std::string text = expected["text"];
    const Ids ids = expected["ids"];
    const Ids without = expected.value("ids_no_special", ids);
    EXPECT_EQ(tokenizer.encode(text), ids) << expected["text"];
    EXPECT_EQ(tokenizer.encode(text, false), without) << expected["text"];
    // Truncation takes from the text and leaves the special tokens.
    const size_t around = ids.size() - without.size();
    for (const size_t max_ids : {around, around + 1, around + 5, ids.size()}) {
      EXPECT_EQ(tokenizer.encode(text, true, max_ids).size(), std::min(max_ids, ids.size()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden,
                         ::testing::Values("added", "deepseek", "digits_individual", "digits_runs", "dropped",
                                           "fallback", "gpt2", "llama2", "llama3", "metaspace_first",
                                           "metaspace_never", "metaspace_words", "o200k", "qwen", "splits",
                                           "unknown_fused", "unknown_single"),
                         [](const auto& test) { return test.param; });

// oracle.json: what the library gave when the model was made.
TEST(TokenizerOracle, GivesTheLibrarysIds) {
  SKIP_WITHOUT_SHARED_MODEL(model, "tiny-v4");
  const Tokenizer tokenizer = Tokenizer::load(system_files(), model / "tokenizer.json");
  const Json oracle = parse_json(read_text(system_files(), model / "oracle.json", 1 << 20), "oracle.json");
  ASSERT_FALSE(oracle["tokenizer_cases"].empty());
  for (const Json& expected : oracle["tokenizer_cases"]) {
    EXPECT_EQ(tokenizer.encode(expected["text"].get<std::string>()), expected["ids"].get<Ids>());
    EXPECT_EQ(tokenizer.encode(expected["text"].get<std::string>(), false),
              expected["ids_no_special"].get<Ids>());
  }
  EXPECT_TRUE(tokenizer.adds_prefix(0));
  EXPECT_FALSE(tokenizer.adds_prefix(1));
  EXPECT_EQ(tokenizer.token_id("<｜User｜>"), 3);
  EXPECT_EQ(tokenizer.vocab_size(), 6144u);
}

}  // namespace
}  // namespace nibblecast
