// What --calib names, and how the published data sets are sampled.
#include "calibration/calibration_set.h"

#include <gmock/gmock.h>

#include "calibration/rows.h"
#include "plain_file.h"
#include "testing.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_plainly;

class CalibrationSets : public ::testing::Test {
 protected:
  std::vector<CalibrationSet> find(const std::string& calib, uint64_t size = 0) const {
    return find_calibration_sets(system_files(), calib, size, folder_.path() / "hub");
  }
  // "name count" of each.
  std::vector<std::string> counts(const std::string& calib, uint64_t size = 0) const {
    std::vector<std::string> texts;
    for (const CalibrationSet& set : find(calib, size)) {
      texts.push_back(fs::path(set.name).filename().string() + " " + std::to_string(set.count));
    }
    return texts;
  }
  std::string file(const std::string& name, const std::string& text = "x") const {
    const fs::path path = folder_.path() / name;
    fs::create_directories(path.parent_path());
    write_plainly(path, text);
    return path.string();
  }
  std::string snapshot(const std::string& repository, const std::string& revision) const {
    return "hub/datasets--" + repository + "/snapshots/" + revision + "/";
  }
  std::string cnn(const std::string& revision = "abc") const {
    return snapshot("abisee--cnn_dailymail", revision) + "3.0.0/";
  }
  std::string nemotron() const {
    return snapshot("nvidia--Nemotron-Post-Training-Dataset-v2", "abc") + "data/";
  }
  void write_both() const {
    file(cnn() + "train-00000-of-00001.jsonl");
    for (const char* split : {"stem", "chat", "math", "code", "multilingual_ja"}) {
      file(nemotron() + split + "-00000-of-00001.jsonl");
    }
  }

  TemporaryFolder folder_;
};

TEST_F(CalibrationSets, FilesWithAndWithoutCounts) {
  const std::string a = file("a.jsonl"), b = file("b.txt"), c = file("c,d:5");
  EXPECT_THAT(counts(a), ElementsAre("a.jsonl 128"));
  EXPECT_THAT(counts(a, 7), ElementsAre("a.jsonl 7"));
  EXPECT_THAT(counts(a + ":64," + b + ":3"), ElementsAre("a.jsonl 64", "b.txt 3"));
  EXPECT_THAT(counts(a + "," + b, 7), ElementsAre("a.jsonl 4", "b.txt 3"));
  EXPECT_THAT(counts("-"), ElementsAre("standard input 128"));
  EXPECT_THAT(counts("-:5," + a + ":2"), ElementsAre("standard input 5", "a.jsonl 2"));
  EXPECT_THAT(counts(c, 9), ElementsAre("c,d:5 9"));
}

// transformers' guide to perplexity: lines joined, one text, all of it.
TEST_F(CalibrationSets, Wikitext2IsOneTextAndWhole) {
  expect_error(
      ErrorKind::kBadInput, [&] { find("wikitext2"); },
      "`hf download Salesforce/wikitext --repo-type dataset --include 'wikitext-2-raw-v1/test-*'`");
  const std::string lines =
      file(snapshot("Salesforce--wikitext", "abc") + "wikitext-2-raw-v1/test-00000-of-00001.jsonl",
           R"({"text": ""}
{"text": " = Robert = \n"}
{"text": ""}
{"text": "b"}
)");
  const CalibrationSet whole = find("wikitext2").at(0);
  EXPECT_EQ(whole.count, kWholeSet);
  EXPECT_EQ(whole.joint, "\n\n");
  EXPECT_THAT(whole.files, ElementsAre(lines));
  EXPECT_THAT(counts("wikitext2:3"), ElementsAre("wikitext2 test 3"));
  EXPECT_THAT(counts("wikitext2", 5), ElementsAre("wikitext2 test 5"));
}

TEST_F(CalibrationSets, RefusesWhatIsNeither) {
  const std::string a = file("a.jsonl");
  const auto refuse = [&](ErrorKind kind, const std::string& calib, uint64_t size, const auto&... parts) {
    expect_error(
        kind, [&] { find(calib, size); }, parts...);
  };
  refuse(ErrorKind::kUsage, a + ":0", 0, "'0' is no count");
  refuse(ErrorKind::kUsage, a + ":99999999999999999999", 0, "is no count");
  refuse(ErrorKind::kUsage, a + ":5," + a, 0, "others none");
  refuse(ErrorKind::kUsage, a + ":5", 6, "--calib-size", "exclude");
  refuse(ErrorKind::kUsage, a + ",", 0, "empty name");
  refuse(ErrorKind::kBadInput, "nothing", 0, "there is no such file", "cnn_dailymail");
  refuse(ErrorKind::kBadInput, a + ":x", 0, "there is no such file");
  refuse(ErrorKind::kBadInput, folder_.path().string(), 0, "is a folder");
}

// ModelOpt's deepseek_v4/ptq.py: 64 each; hf_ptq's default: 1024 of the combination.
TEST_F(CalibrationSets, SamplesDataSetsAsModelOptDoes) {
  write_both();
  EXPECT_THAT(
      counts("cnn_dailymail:64,nemotron-post-training-dataset-v2:64"),
      ElementsAre("cnn_dailymail train 64", "nemotron-post-training-dataset-v2 stem 16",
                  "nemotron-post-training-dataset-v2 chat 16", "nemotron-post-training-dataset-v2 math 16",
                  "nemotron-post-training-dataset-v2 code 16"));
  EXPECT_THAT(
      counts("cnn_nemotron_v2_mix", 1023),
      ElementsAre("cnn_dailymail train 512", "nemotron-post-training-dataset-v2 stem 127",
                  "nemotron-post-training-dataset-v2 chat 127", "nemotron-post-training-dataset-v2 math 127",
                  "nemotron-post-training-dataset-v2 code 130"));
  EXPECT_THAT(counts("nemotron-post-training-dataset-v2:3"),
              ElementsAre("nemotron-post-training-dataset-v2 code 3"));
  const auto sets = find("cnn_dailymail");
  EXPECT_EQ(sets.at(0).column, "article");
  EXPECT_EQ(sets.at(0).rest, "");
}

TEST_F(CalibrationSets, FindsDownloads) {
  write_both();
  const std::string local = file("copies/cnn_dailymail/train-00000-of-00002.jsonl");
  EXPECT_THAT(find(fs::path(local).parent_path().string()).at(0).files, ElementsAre(local));
  const std::string deep = file("data/Nemotron-Post-Training-Dataset-v2/data/stem.jsonl");
  for (const char* split : {"chat", "math", "code"}) {
    file("data/Nemotron-Post-Training-Dataset-v2/data/" + std::string(split) + ".jsonl");
  }
  EXPECT_EQ(find((folder_.path() / "data/Nemotron-Post-Training-Dataset-v2").string()).at(0).files.at(0),
            deep);
  // What `hf download` prints, and the folder above.
  const std::string cached = (folder_.path() / cnn() / "train-00000-of-00001.jsonl").string();
  EXPECT_THAT(find((folder_.path() / snapshot("abisee--cnn_dailymail", "abc")).string()).at(0).files,
              ElementsAre(cached));
  EXPECT_THAT(find((folder_.path() / "hub/datasets--abisee--cnn_dailymail").string()).at(0).files,
              ElementsAre(cached));
}

TEST_F(CalibrationSets, TakesTheSnapshotOfMain) {
  file(cnn("aaa") + "train-00000-of-00001.jsonl");
  const std::string newer = file(cnn("bbb") + "train-00000-of-00001.jsonl");
  file("hub/datasets--abisee--cnn_dailymail/refs/main", "bbb\n");
  EXPECT_THAT(find("cnn_dailymail").at(0).files, ElementsAre(newer));
}

TEST_F(CalibrationSets, SaysHowToGetWhatIsAbsent) {
  expect_error(
      ErrorKind::kBadInput, [&] { find("cnn_dailymail"); }, "cnn_dailymail",
      "`hf download abisee/cnn_dailymail --repo-type dataset --include '3.0.0/train-00000-of-*'`");
  file(nemotron() + "stem-00000-of-00001.jsonl");
  expect_error(
      ErrorKind::kBadInput, [&] { find("nemotron-post-training-dataset-v2"); }, "not all there",
      "`hf download nvidia/Nemotron-Post-Training-Dataset-v2 --repo-type dataset --include "
      "'data/[scm][!u]*-00000-of-*'`",
      "gated", "hf auth login");
  file(cnn() + "train-00000-of-00002.jsonl");
  file(cnn() + "train-00001-of-00003.jsonl");
  expect_error(
      ErrorKind::kBadInput, [&] { find("cnn_dailymail"); }, "train-00001-of-00003.jsonl", "two downloads");
}

TEST_F(CalibrationSets, TakesTheNamesThatPeopleWrite) {
  write_both();
  for (const char* name :
       {"abisee/cnn_dailymail", "Abisee/CNN_DailyMail", "CNN_DailyMail", "hf://datasets/abisee/cnn_dailymail",
        "https://huggingface.co/datasets/abisee/cnn_dailymail", "datasets/abisee/cnn_dailymail",
        "https://huggingface.co/datasets/abisee/cnn_dailymail/viewer/3.0.0/train?row=1", " cnn_dailymail ",
        "hf://datasets/abisee/cnn_dailymail@main"}) {
    EXPECT_THAT(counts(name, 5), ElementsAre("cnn_dailymail train 5")) << name;
  }
  EXPECT_THAT(counts("hf://datasets/abisee/cnn_dailymail:7"), ElementsAre("cnn_dailymail train 7"));
  EXPECT_EQ(find("nvidia/Nemotron-Post-Training-Dataset-v2").size(), 4u);
  EXPECT_EQ(find("nvidia/nemotron-post-training-dataset-v2").size(), 4u);
}

TEST_F(CalibrationSets, SaysHowToGetAnyDataSetOfTheHub) {
  for (const char* name : {"abisee/cnn_dailymail", "hf://datasets/Abisee/CNN_dailymail",
                           "https://huggingface.co/datasets/abisee/cnn_dailymail"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { find(name); }, "`hf download abisee/cnn_dailymail --repo-type dataset");
  }
  for (const char* name : {"Salesforce/wikitext", "hf://datasets/Salesforce/wikitext",
                           "https://huggingface.co/datasets/Salesforce/wikitext/tree/main"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { find(name); }, name, "no such file",
        "`hf download Salesforce/wikitext --repo-type dataset --local-dir wikitext`", "--calib-key");
  }
  expect_error(
      ErrorKind::kBadInput, [&] { find("data/calib.jsonl"); }, "no such file; data sets known by name");
}

TEST_F(CalibrationSets, BlanksAroundNamesAndDigitsInThem) {
  const std::string a = file("a.jsonl"), b = file("b.jsonl"), f = file("F"), f1 = file("F:1");
  EXPECT_THAT(counts(a + ", " + b, 4), ElementsAre("a.jsonl 2", "b.jsonl 2"));
  EXPECT_THAT(counts(a + ":3 , " + b + " :1"), ElementsAre("a.jsonl 3", "b.jsonl 1"));
  EXPECT_THAT(counts(f1, 9), ElementsAre("F:1 9"));
  EXPECT_THAT(counts(f1 + ":5"), ElementsAre("F:1 5"));
  EXPECT_THAT(counts(f + ":2"), ElementsAre("F 2"));
  const std::string blank = file(" c.jsonl ");
  EXPECT_THAT(counts(blank), ElementsAre(" c.jsonl  128"));
  expect_error(
      ErrorKind::kUsage, [&] { find(a + ", ,"); }, "empty name");
}

TEST_F(CalibrationSets, AColumnIsThatOfFiles) {
  write_both();
  const std::string a = file("a.jsonl");
  const auto sets =
      find_calibration_sets(system_files(), a + ",cnn_dailymail", 4, folder_.path() / "hub", "body");
  EXPECT_EQ(sets.at(0).column, "body");
  EXPECT_EQ(sets.at(1).column, "article");
}

TEST_F(CalibrationSets, ReadsFilesInOrderUntilTheyEnd) {
  file(cnn() + "train-00000-of-00004.jsonl",
       "{\"article\": \"one\", \"text\": \"another column\"}\n{\"article\": \"\"}\n");
  file(cnn() + "train-00001-of-00004.jsonl", "{\"article\": \"two\"}\n");
  file(cnn() + "train-00003-of-00004.jsonl", "{\"article\": \"beyond the gap\"}\n");
  const std::string vocabulary = R"({"model": {"vocab": {"o":0,"n":1,"e":2,"t":3,"w":4}, "merges": []}})";
  const auto tokenizer = Tokenizer::load(system_files(), file("tokenizer.json", vocabulary));
  const auto read = [&](const std::string& calib) {
    return read_rows(system_files(), find(calib), [&] { return &tokenizer; }, -1, 5, {});
  };
  // Empty texts count, and are not replaced.
  EXPECT_THAT(read("cnn_dailymail:2").ids, ElementsAre(ElementsAre(0, 1, 2)));
  const std::string empty = file("empty.jsonl", "{\"text\": \"\"}\n");
  EXPECT_EQ(read(empty + ":1,cnn_dailymail:2").ids.size(), 1u);
  expect_error(
      ErrorKind::kBadInput, [&] { read(empty + ":1," + empty + ":1"); }, "no rows can be made of it");
  EXPECT_THAT(read("cnn_dailymail:3").ids, ElementsAre(ElementsAre(0, 1, 2), ElementsAre(3, 4, 0)));
  expect_error(
      ErrorKind::kBadInput, [&] { read("cnn_dailymail:4"); }, "cnn_dailymail train", "expected 4 texts",
      "found 3", "--include '3.0.0/train-*'");
}

}  // namespace
}  // namespace nibblecast
