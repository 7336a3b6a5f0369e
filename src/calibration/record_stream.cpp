#include "calibration/record_stream.h"

#include <utility>

#include "calibration/parquet.h"
#include "calibration/text_lines.h"

namespace nibblecast {
namespace {

class TextRecords : public RecordStream {
 public:
  TextRecords(ByteSource source, std::string name, RecordOptions options)
      : lines_(std::move(source), std::move(name)), options_(std::move(options)) {
    is_jsonl_ = lines_.is_jsonl();
  }

  std::optional<Record> next() override {
    if (!is_jsonl_) {
      if (std::exchange(is_at_end_, true)) return std::nullopt;
      TextLine all = lines_.rest();
      return Record{
          .place = {std::move(all.origin), all.offset}, .text = std::move(all.text), .ids = std::nullopt};
    }
    const auto line = lines_.next_line();
    if (!line) return std::nullopt;
    return read_record(parse_json(line->text, line->origin, line->offset), {line->origin, line->offset},
                       options_.vocab_size, options_.column);
  }

 private:
  TextLines lines_;
  RecordOptions options_;
  bool is_jsonl_ = false;
  bool is_at_end_ = false;
};

}  // namespace

std::unique_ptr<RecordStream> open_records(FileSystem& files, const std::string& source,
                                           RecordOptions options) {
  if (source != "-" && is_parquet(files, source)) return open_parquet(files, source, std::move(options));
  return std::make_unique<TextRecords>(open_source(files, source), source == "-" ? "standard input" : source,
                                       std::move(options));
}

}  // namespace nibblecast
