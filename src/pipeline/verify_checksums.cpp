#include "pipeline/verify_checksums.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/run_record.h"
#include "pipeline/reader.h"
#include "pipeline/verify_folder.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr uint64_t kCheckedBytes = 16 << 20;

// A tensor whose bytes must give `checksum`.
struct Expected {
  std::string name;
  FileRange range;
  std::string checksum;
  bool ends_tensor = true;
};

std::string text_of(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

// One checksum of all its bytes, or a list: of as many equal parts.
void expect_tensor(const Tensor& tensor, const Json& recorded, std::vector<Expected>& expected) {
  const FileRange range{tensor.shard, tensor.offset, tensor.size_bytes};
  const uint64_t parts = recorded.is_array() ? recorded.size() : 0;
  if (parts == 0 || tensor.size_bytes % parts != 0) {
    expected.push_back({tensor.name, range, text_of(recorded)});
    return;
  }
  const uint64_t size = tensor.size_bytes / parts;
  for (uint64_t part = 0; part < parts; ++part) {
    expected.push_back({fmt::format("{}[{}]", tensor.name, part),
                        {range.file, range.begin + part * size, size},
                        text_of(recorded[part]),
                        part + 1 == parts});
  }
}

// Reads all of them once, in the order of the files.
class Comparison {
 public:
  Comparison(FileSystem& files, std::vector<Path> paths, std::vector<Expected> expected,
             const VerifyOptions& options, ChecksumReport& report)
      : files_(files),
        paths_(std::move(paths)),
        expected_(std::move(expected)),
        options_(options),
        report_(report) {
    std::ranges::sort(expected_, {},
                      [](const Expected& e) { return std::pair(e.range.file, e.range.begin); });
  }

  void run() {
    cut();
    std::vector<std::unique_ptr<File>> files;
    for (const Path& path : paths_) files.push_back(files_.open(path, Access::kReadDirect));
    for (const ReadUnit& unit : reads_) total_ += unit[0].size_bytes;
    Reader reader(std::move(files), reads_, options_.memory_bytes);
    for (const std::vector<Part>& parts : parts_) {
      const Reader::Loaded loaded = reader.next();
      std::span<const std::byte> bytes = loaded[0];
      for (const Part& part : parts) {
        add(expected_[part.index], part, bytes.first(part.size_bytes));
        bytes = bytes.subspan(part.size_bytes);
      }
    }
  }

 private:
  struct Part {
    size_t index = 0;  // into expected_
    uint64_t begin = 0, size_bytes = 0;
  };

  // Blocks of neighbouring tensors.
  void cut() {
    for (size_t index = 0; index < expected_.size(); ++index) {
      const FileRange& range = expected_[index].range;
      uint64_t done = 0;
      do {
        const bool joins = !reads_.empty() && reads_.back()[0].file == range.file &&
                           reads_.back()[0].end() == range.begin + done &&
                           reads_.back()[0].size_bytes < kCheckedBytes;
        if (!joins) {
          reads_.push_back({{range.file, range.begin + done, 0}});
          parts_.emplace_back();
        }
        FileRange& block = reads_.back()[0];
        const uint64_t size = std::min(kCheckedBytes - block.size_bytes, range.size_bytes - done);
        parts_.back().push_back({index, done, size});
        block.size_bytes += size;
        done += size;
      } while (done < range.size_bytes);
    }
  }

  void add(const Expected& expected, const Part& part, std::span<const std::byte> bytes) {
    if (part.begin == 0) hash_ = Hash();
    hash_.add(bytes);
    report_.bytes += bytes.size();
    if (options_.progress) {
      options_.progress({.stage = paths_[expected.range.file].filename().string(),
                         .bytes_done = report_.bytes,
                         .bytes = total_});
    }
    if (part.begin + part.size_bytes < expected.range.size_bytes) return;
    if (expected.ends_tensor) ++report_.tensors;
    const std::string found = hash_.hex();
    if (found == expected.checksum) return;
    report_.problems.push_back(
        fmt::format("{}: tensor '{}': was changed since it was written (checksum {}, was {})",
                    paths_[expected.range.file].string(), expected.name, found, expected.checksum));
  }

  FileSystem& files_;
  std::vector<Path> paths_;
  std::vector<Expected> expected_;
  const VerifyOptions& options_;
  ChecksumReport& report_;
  std::vector<ReadUnit> reads_;
  std::vector<std::vector<Part>> parts_;
  Hash hash_;
  uint64_t total_ = 0;
};

Json read_record(FileSystem& files, const Path& output) {
  const Path path = output / "nibblecast.json";
  if (!files.status(path)) {
    throw Error(
        ErrorKind::kBadInput, {.file = output.string()}, "holds no nibblecast.json",
        {.hint = files.status(output / ".nibblecast")
                     ? "it is unfinished: `nibblecast status` says how far it is"
                     : "only outputs of nibblecast carry their checksums; verify it against its source"});
  }
  Json record = read_run_record(files, output);
  for (const char* part : {"checksums", "files", "headers"}) {
    if (record.is_object() && record.contains(part) && record[part].is_object()) continue;
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, fmt::format("has no '{}'", part),
                {.hint = "was it written by an older version? Verify the output against its source"});
  }
  return record;
}

void check_files(FileSystem& files, const Path& output, const Json& record, ChecksumReport& report) {
  for (const auto& [name, checksum] : record["files"].items()) {
    const auto status = is_inside(name) ? files.status(output / name) : std::nullopt;
    // A card is for its publisher to edit.
    std::vector<std::string>& lines = is_model_card(name) ? report.notes : report.problems;
    if (!status || status->is_folder) {
      lines.push_back(name + ": is missing");
      continue;
    }
    ++report.files;
    if (file_checksum(files, output / name) != text_of(checksum)) {
      lines.push_back(name + ": was changed since it was written");
    }
  }
}

void check_headers(FileSystem& files, const Checkpoint& checkpoint, const Json& record,
                   ChecksumReport& report) {
  for (const Shard& shard : checkpoint.shards()) {
    std::string header(shard.data_offset, '\0');
    files.open(checkpoint.folder() / shard.name, Access::kRead)
        ->read(0, std::as_writable_bytes(std::span(header)));
    if (text_of(record["headers"].value(shard.name, Json())) != hash_of(header)) {
      report.problems.push_back(shard.name + ": its header was changed since it was written");
    }
  }
}

}  // namespace

std::string file_checksum(FileSystem& files, const Path& path) {
  const auto file = files.open(path, Access::kRead);
  const uint64_t size = file->size();
  std::vector<std::byte> block(std::min<uint64_t>(size, 1 << 20));
  Hash hash;
  for (uint64_t at = 0; at < size; at += block.size()) {
    const auto part = std::span(block).first(std::min<uint64_t>(block.size(), size - at));
    file->read(at, part);
    hash.add(part);
  }
  return hash.hex();
}

ChecksumReport verify_checksums(FileSystem& files, const Path& output, const VerifyOptions& options) {
  const Json record = read_record(files, output);
  ChecksumReport report;
  check_files(files, output, record, report);
  if (std::optional<std::string> problem = adapter_problem(output, files))
    report.problems.push_back(*problem);
  std::optional<Checkpoint> checkpoint;
  try {
    checkpoint.emplace(Checkpoint::open(output, files));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBadInput) throw;
    report.problems.push_back(error.what());
    return report;
  }
  check_headers(files, *checkpoint, record, report);
  std::set<std::string> unseen;
  for (const auto& [name, checksum] : record["checksums"].items()) unseen.insert(name);
  std::vector<Path> paths;
  for (const Shard& shard : checkpoint->shards()) paths.push_back(output / shard.name);
  std::vector<Expected> expected;
  for (const Tensor& tensor : checkpoint->tensors()) {
    if (unseen.erase(tensor.name) == 0) {
      report.problems.push_back(tensor.name + ": is not in the record");
      continue;
    }
    expect_tensor(tensor, record["checksums"][tensor.name], expected);
  }
  for (const std::string& name : unseen) report.problems.push_back(name + ": is missing");
  Comparison(files, std::move(paths), std::move(expected), options, report).run();
  return report;
}

ChecksumReport verify_durable(FileSystem& files, const Plan& plan, const JobState& state,
                              const Path& destination, const VerifyOptions& options) {
  ChecksumReport report;
  std::vector<Path> paths;
  std::vector<uint32_t> file_of(plan.shards.size());
  std::vector<bool> whole(plan.shards.size());
  for (uint32_t shard = 0; shard < plan.shards.size(); ++shard) {
    // Shards get their names one by one at the very end.
    Path path = destination / (plan.shards[shard].name + ".partial");
    if (!files.status(path)) path = destination / plan.shards[shard].name;
    const auto status = files.status(path);
    whole[shard] = status && !status->is_folder && status->size_bytes == plan.shards[shard].size_bytes;
    file_of[shard] = static_cast<uint32_t>(paths.size());
    if (whole[shard]) paths.push_back(std::move(path));
  }
  std::vector<Expected> expected;
  std::set<uint32_t> lost;
  for (const auto& [index, durable] : state.tensors) {
    const Tensor& tensor = plan.tensors.at(index).out;
    if (!whole[tensor.shard]) {
      lost.insert(tensor.shard);
      continue;
    }
    expected.push_back(
        {tensor.name, {file_of[tensor.shard], tensor.offset, tensor.size_bytes}, durable.checksum});
  }
  for (const uint32_t shard : lost) {
    report.problems.push_back(plan.shards[shard].name +
                              ".partial: is gone or cut; its tensors will be made again");
  }
  Comparison(files, std::move(paths), std::move(expected), options, report).run();
  return report;
}

}  // namespace nibblecast
