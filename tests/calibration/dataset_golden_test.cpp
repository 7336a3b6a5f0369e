// Texts of the published data sets against ModelOpt's own loader: tools/check_datasets.py --golden.
#include <gmock/gmock.h>

#include "base/json.h"
#include "byte_tokenizer.h"
#include "calibration/rows.h"
#include "plain_file.h"
#include "testing.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;
using testing::byte_tokenizer;
using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_plainly;

const fs::path kGolden = fs::path(NIBBLECAST_SOURCE_DIR) / "tests/calibration/golden/datasets";

class DatasetGolden : public ::testing::Test {
 protected:
  std::vector<std::string> texts(const fs::path& calib, uint64_t count) const {
    const auto sets = find_calibration_sets(system_files(), calib.string(), count, "no cache");
    const CalibrationRows rows =
        read_rows(system_files(), sets, [&] { return &tokenizer_; }, -1, 256, {.length = SIZE_MAX});
    std::vector<std::string> texts;
    for (const auto& ids : rows.ids) texts.push_back(testing::text_of(ids));
    return texts;
  }
  // A copy of the golden's files with one extension only.
  fs::path copy_of(const std::string& extension) const {
    for (const auto& entry : fs::recursive_directory_iterator(kGolden)) {
      if (entry.path().extension() != extension) continue;
      const fs::path copy = folder_.path() / fs::relative(entry.path(), kGolden);
      fs::create_directories(copy.parent_path());
      fs::copy_file(entry.path(), copy);
    }
    return folder_.path();
  }
  void expect_golden(const fs::path& root) const {
    const std::string golden = read_text(system_files(), kGolden / "expected.json", 1 << 20);
    for (const Json& one : parse_json(golden, "expected.json")) {
      const std::string name = one["name"];
      const uint64_t count = one["count"];
      EXPECT_EQ(texts(root / name, count), one["texts"].get<std::vector<std::string>>())
          << name << ":" << count;
    }
  }

  TemporaryFolder folder_;
  Tokenizer tokenizer_ = byte_tokenizer(folder_.path());
};

TEST_F(DatasetGolden, JsonLinesGiveModelOptsTexts) { expect_golden(copy_of(".jsonl")); }

#ifdef NIBBLECAST_PARQUET

TEST_F(DatasetGolden, ParquetGivesModelOptsTexts) { expect_golden(copy_of(".parquet")); }

TEST_F(DatasetGolden, ParquetHasEveryKindOfRecord) {
  EXPECT_THAT(texts(kGolden / "other.parquet", 4), ::testing::ElementsAre("\1\2", "ab", "c", "d"));
}

TEST_F(DatasetGolden, ParquetErrorsNameFileAndRow) {
  const auto refuse = [&](const fs::path& path, const auto&... parts) {
    expect_error(
        ErrorKind::kBadInput, [&] { texts(path, 4); }, path.filename().string(), parts...);
  };
  refuse(kGolden / "no_text.parquet", "none of the columns", "found body");
  refuse(kGolden / "not_text.parquet", "row 1", "holds no text");
  refuse(kGolden / "latin1.parquet", "row 1", "not UTF-8");
  const std::string whole = read_text(system_files(), kGolden / "other.parquet", 1 << 20);
  const fs::path path = folder_.path() / "damaged.parquet";
  write_plainly(path, "{\"text\": \"a\"}");
  refuse(path, "is no Parquet file");
  write_plainly(path, whole.substr(0, whole.size() / 2));
  refuse(path, "ends without Parquet's footer", "cut short");
  write_plainly(path, whole.substr(0, 4) + whole.substr(whole.size() - 100));
  refuse(path, "damaged");
}

// Whatever a damaged file says, the answer is rows or an Error.
TEST_F(DatasetGolden, DamagedParquetNeverCrashes) {
  const std::string whole = read_text(system_files(), kGolden / "other.parquet", 1 << 20);
  const fs::path path = folder_.path() / "damaged.parquet";
  int refused = 0;
  for (size_t at = 4; at + 4 < whole.size(); at += 3) {
    for (const char flip : {'\x01', '\x80'}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      write_plainly(path, damaged);
      try {
        texts(path, 4);
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 100);
}

#else

TEST_F(DatasetGolden, ABuildWithoutParquetSaysHowToGetIt) {
  const fs::path named = kGolden / "other.parquet", unnamed = folder_.path() / "train";
  fs::copy_file(named, unnamed);
  for (const fs::path& path : {named, unnamed}) {
    expect_error(
        ErrorKind::kUnsupported, [&] { texts(path, 4); }, path.string(), "`make parquet`");
  }
}

#endif

}  // namespace
}  // namespace nibblecast
