// What of a run is fit for publishing: side files, names, the record, the card.
#include "pipeline/published.h"

#include <gmock/gmock.h>

#include "checkpoint/run_record.h"
#include "pipeline/model_card.h"
#include "pipeline_testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::make_tiny_source;
using ::testing::Not;
using testing::run_job;
using testing::TemporaryFolder;
using testing::tiny_rows;

class Published : public ::testing::Test {
 protected:
  void SetUp() override { make_tiny_source(source_folder()); }

  std::filesystem::path source_folder() const { return work_.path() / "my secret place" / "model"; }
  Checkpoint source() const { return Checkpoint::open(source_folder(), system_files()); }
  void put(const std::string& name, const std::string& text = "x") const {
    std::filesystem::create_directories((source_folder() / name).parent_path());
    write_text_durably(system_files(), source_folder() / name, text);
  }
  std::string text_of(const std::string& name) const {
    return read_text(system_files(), work_.path() / "out" / name, 1 << 26);
  }
  void quantize_it() const {
    const Checkpoint in = source();
    const Plan plan = make_plan(in, {});
    run_job(in, plan,
            Activations::from_rows(tiny_rows(plan.model->vocabulary.size),
                                   "/home/me/texts.jsonl:4,cnn_dailymail"),
            work_.path() / "out");
  }

  TemporaryFolder work_;
};

TEST_F(Published, OnlyTheModelsOwnFilesGoAlong) {
  for (const char* name :
       {"LICENSE", "merges.txt", "chat_template.jinja", "modeling.py", "preprocessor_config.json",
        "encoding/deep/e.txt", "assets/a.png", "inference/model.py", "calib.jsonl", "notes.bak", "eval.csv",
        "texts.txt", "data/train.parquet", "assets/a.txt", "my.json", "adapter_config.json"})
    put(name);
  const SideFiles files = side_files(source());
  EXPECT_THAT(files.taken,
              ElementsAre("LICENSE", "README.md", "assets/a.png", "chat_template.jinja",
                          "encoding/deep/e.txt", "generation_config.json", "merges.txt", "modeling.py",
                          "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"));
  EXPECT_THAT(files.left_out,
              ElementsAre("adapter_config.json", "assets/a.txt", "calib.jsonl", "data/train.parquet",
                          "eval.csv", "inference/model.py", "my.json", "notes.bak", "texts.txt"));
}

TEST_F(Published, NamesInsteadOfPaths) {
  EXPECT_EQ(without_folders("/home/a/x.jsonl:64,cnn_dailymail,b/y.parquet"),
            "x.jsonl:64,cnn_dailymail,y.parquet");
  EXPECT_EQ(without_folders("nvfp4_experts_only"), "nvfp4_experts_only");
  EXPECT_EQ(folder_name("a/b/"), "b");
  EXPECT_EQ(hub_id("/c/models--deepseek-ai--DeepSeek-V4-Pro/snapshots/0123"), "deepseek-ai/DeepSeek-V4-Pro");
  EXPECT_EQ(hub_id("/models/DeepSeek-V4-Pro"), "");
}

TEST_F(Published, AttemptsSayHowTheyEndedAndNothingOfTheMachine) {
  const Json attempts = published_attempts(
      {{{"host", "h"}, {"pid", 1}, {"began", "a"}, {"end", "/secret/x: cannot be read"}, {"last", "layer 1"}},
       {{"host", "h"}, {"pid", 2}, {"began", "b"}, {"end", "interrupted; run it again"}},
       {{"host", "h"}, {"pid", 3}, {"began", "c"}, {"end", ""}},
       {{"host", "h"}, {"pid", 4}, {"began", "d"}, {"end", "finished"}}});
  EXPECT_EQ(attempts[0], (Json{{"began", "a"}, {"end", "failed"}, {"last", "layer 1"}}));
  EXPECT_EQ(attempts[1]["end"], "interrupted");
  EXPECT_EQ(attempts[2]["end"], "");
  EXPECT_EQ(attempts[3]["end"], "finished");
}

TEST_F(Published, RecordAndCardHoldNoPathHostOrProcess) {
  quantize_it();
  for (const char* name : {"README.md", kRecordName, kRecordSourceName, kRecordChecksumsName}) {
    const std::string text = text_of(name);
    EXPECT_THAT(text, Not(HasSubstr("my secret place"))) << name;
    EXPECT_THAT(text, Not(HasSubstr("/home/me"))) << name;
    EXPECT_THAT(text, Not(HasSubstr("\"host\""))) << name;
    EXPECT_THAT(text, Not(HasSubstr("\"pid\""))) << name;
  }
  const Json record = read_run_record(system_files(), work_.path() / "out");
  EXPECT_EQ(record["source"]["name"], "model");
  EXPECT_TRUE(record["source"]["hub"].is_null());
  EXPECT_EQ(record["activations"]["origin"], "texts.jsonl:4,cnn_dailymail");
  EXPECT_EQ(record["checksums"].size(), record["tensors"]);
  EXPECT_TRUE(record["files"].contains(kRecordChecksumsName));
  EXPECT_EQ(record["source"]["shards"].size(), source().shards().size());
}

TEST_F(Published, TheCardSaysWhatWasDoneAndHowToServeIt) {
  put("README.md",
      "---\nlicense: mit\nlibrary_name: other\nlicense_link: |\n  many\n  lines\ntags: [a]\n---\n");
  put("LICENSE");
  quantize_it();
  const std::string card = text_of("README.md");
  EXPECT_THAT(card, Not(HasSubstr("base_model")));
  EXPECT_THAT(
      card,
      HasSubstr("---\nlibrary_name: other\nlicense: mit\npipeline_tag: text-generation\ntags:\n- nvfp4\n"
                "- nibblecast\n---\n\n# model in NVFP4\n"));
  for (const char* part :
       {"recipe `nvfp4_experts_only`; cast from MXFP4",
        "4 rows of at most 48 tokens, 192 tokens in all, of "
        "texts.jsonl:4,cnn_dailymail",
        "bits per weight", "written in DeepSeek-V4's own form", "- Licence: `mit`, the source's (LICENSE).",
        "vllm serve PATH --tensor-parallel-size N --kv-cache-dtype fp8 --tokenizer-mode deepseek_v4 ",
        "sglang.launch_server --model-path PATH --tp-size N --reasoning-parser deepseek-v4",
        "trtllm-serve PATH --tp_size N --ep_size N --custom_tokenizer deepseek_v4", "vLLM 0.",
        "hf upload-large-folder OWNER/NAME FOLDER"})
    EXPECT_THAT(card, HasSubstr(part));
}

TEST_F(Published, ABaseModelThatIsNamedStandsInTheCard) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  const std::string card = model_card(in, plan, {}, {}, "deepseek-ai/DeepSeek-V4-Flash");
  EXPECT_THAT(
      card,
      HasSubstr("---\nbase_model: \"deepseek-ai/DeepSeek-V4-Flash\"\nbase_model_relation: quantized\n"));
  EXPECT_THAT(card, HasSubstr("# deepseek-ai/DeepSeek-V4-Flash in NVFP4"));
}

// What an older version wrote, all in one file, reads as it is.
TEST_F(Published, ARecordOfOneFileReadsAsItIs) {
  quantize_it();
  const std::filesystem::path out = work_.path() / "out";
  Json whole = read_run_record(system_files(), out);
  write_text_durably(system_files(), out / kRecordName, whole.dump());
  std::filesystem::remove_all(out / kRecordFolder);
  EXPECT_EQ(read_run_record(system_files(), out), whole);
}

}  // namespace
}  // namespace nibblecast
