#include "calibration/joined_records.h"

#include <utility>

namespace nibblecast {
namespace {

class JoinedRecords : public RecordStream {
 public:
  JoinedRecords(FileSystem& files, const CalibrationSet& set, RecordOptions options)
      : files_(files), set_(set), options_(std::move(options)) {}

  std::optional<Record> next() override {
    if (std::exchange(is_read_, true)) return std::nullopt;
    Record record{.place = {.origin = set_.name, .offset = std::nullopt}, .text = {}};
    record.more = [this](std::string& to) { return append(to); };
    return record;
  }

 private:
  // The next part of the record that is read, or of the one behind it.
  bool append(std::string& to) {
    if (open_ && open_->more && open_->more(to)) return true;
    open_ = following();
    if (!open_) return false;
    if (open_->ids)
      fail_record(open_->place, "token ids, where lines of one text are joined",
                  {.expected = "texts", .hint = {}});
    if (std::exchange(is_begun_, true)) to += set_.joint;
    to += open_->text;
    return true;
  }

  std::optional<Record> following() {
    while (true) {
      if (records_) {
        if (std::optional<Record> record = records_->next()) return record;
      }
      if (file_ == set_.files.size()) return std::nullopt;
      records_ = open_records(files_, set_.files[file_++], options_);
    }
  }

  FileSystem& files_;
  const CalibrationSet& set_;
  const RecordOptions options_;
  size_t file_ = 0;  // the next one
  std::unique_ptr<RecordStream> records_;
  std::optional<Record> open_;  // whose text was appended last
  bool is_read_ = false, is_begun_ = false;
};

}  // namespace

std::unique_ptr<RecordStream> join_records(FileSystem& files, const CalibrationSet& set,
                                           RecordOptions options) {
  return std::make_unique<JoinedRecords>(files, set, std::move(options));
}

}  // namespace nibblecast
