#include "pipeline/kept_shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "pipeline/reader.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr uint64_t kPieceBytes = 8 << 20;

enum class Found { kAsItWas, kOtherStamp, kGone };

const char* what(Found found) {
  if (found == Found::kGone) return "gone or cut";
  // What was made together with others that are lost.
  return found == Found::kAsItWas ? "without its counterparts in other shards" : "not as this job left it";
}

Found look_at(FileSystem& files, const Plan& plan, const Path& destination, const JobState& state,
              uint32_t shard) {
  const Path path = partial_path(destination, plan.shards[shard]);
  const auto status = files.status(path);
  if (!status) return Found::kGone;
  if (status->is_folder || status->is_symlink) {
    throw Error(ErrorKind::kRefused, {.file = path.string()}, "is not the file that this job made",
                {.expected = "a file",
                 .found = status->is_folder ? "a folder" : "a link",
                 .hint = "move it away: what the shard held is made again"});
  }
  if (status->size_bytes != plan.shards[shard].size_bytes) return Found::kGone;
  const auto stamp = state.stamps.find(shard);
  const bool same = stamp != state.stamps.end() && status->stamp == stamp->second;
  return same ? Found::kAsItWas : Found::kOtherStamp;
}

// The tensors whose bytes do not give their checksum.
class ReadBack {
 public:
  ReadBack(FileSystem& files, const Plan& plan, const Path& destination, const JobState& state,
           std::vector<uint32_t> tensors)
      : plan_(plan), state_(state), tensors_(std::move(tensors)) {
    const auto place = [&](uint32_t index) {
      const Tensor& tensor = plan.tensors[index].out;
      return std::tuple(tensor.shard, tensor.offset, index);
    };
    std::ranges::sort(tensors_, {}, place);
    std::map<uint32_t, uint32_t> opened;  // shard -> its place in files_
    for (const uint32_t index : tensors_) {
      const Tensor& tensor = plan.tensors[index].out;
      const auto [file, is_new] = opened.emplace(tensor.shard, static_cast<uint32_t>(files_.size()));
      if (is_new) {
        files_.push_back(
            files.open(partial_path(destination, plan.shards[tensor.shard]), Access::kReadDirect));
      }
      for (uint64_t begin = 0; begin < tensor.size_bytes; begin += kPieceBytes) {
        const uint64_t size = std::min(kPieceBytes, tensor.size_bytes - begin);
        reads_.push_back({{file->second, tensor.offset + begin, size}});
      }
      bytes_ += tensor.size_bytes;
    }
  }

  std::vector<uint32_t> run(uint64_t memory_bytes, const ReadBackProgress& progress) {
    Reader reader(std::move(files_), std::move(reads_), memory_bytes);
    std::vector<uint32_t> wrong;
    uint64_t done = 0;
    for (const uint32_t index : tensors_) {
      const uint64_t size = plan_.tensors[index].out.size_bytes;
      Hash hash;
      for (uint64_t begin = 0; begin < size; begin += kPieceBytes) {
        const Reader::Loaded loaded = reader.next();
        hash.add(loaded[0]);
        done += loaded[0].size();
        if (progress) progress(done, bytes_);
      }
      if (hash.hex() != state_.tensors.at(index).checksum) wrong.push_back(index);
    }
    return wrong;
  }

 private:
  const Plan& plan_;
  const JobState& state_;
  std::vector<uint32_t> tensors_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<ReadUnit> reads_;
  uint64_t bytes_ = 0;
};

// A group's weights and scales are made together, wherever they lie: one that is lost takes the others with
// it.
void lose_whole_groups(const Plan& plan, const JobState& state, std::set<uint32_t>& lost) {
  for (const Stage& stage : plan.stages) {
    for (const PlannedGroup& group : stage.groups) {
      std::vector<uint32_t> made;
      for (const PlannedLinear& linear : group.linears) {
        for (const uint32_t index : {linear.weight, linear.block_scale})
          if (state.tensors.contains(index)) made.push_back(index);
      }
      if (std::ranges::any_of(made, [&](uint32_t index) { return lost.contains(index); }))
        lost.insert(made.begin(), made.end());
    }
  }
}

}  // namespace

Path partial_path(const Path& destination, const PlannedShard& shard) {
  return destination / (shard.name + ".partial");
}

KeptShards find_kept_shards(FileSystem& files, const Plan& plan, const Path& destination,
                            const JobState& state, uint64_t memory_bytes, const ReadBackProgress& progress) {
  std::vector<Found> found;
  for (uint32_t shard = 0; shard < plan.shards.size(); ++shard)
    found.push_back(look_at(files, plan, destination, state, shard));
  std::vector<uint64_t> durable(plan.shards.size()), lost_in(plan.shards.size());
  std::set<uint32_t> lost;
  std::vector<uint32_t> doubtful;
  for (const auto& [index, tensor] : state.tensors) {
    const uint32_t shard = plan.tensors[index].out.shard;
    ++durable[shard];
    if (found[shard] == Found::kGone) lost.insert(index);
    if (found[shard] == Found::kOtherStamp) doubtful.push_back(index);
  }
  if (!doubtful.empty()) {
    const std::vector<uint32_t> wrong =
        ReadBack(files, plan, destination, state, std::move(doubtful)).run(memory_bytes, progress);
    lost.insert(wrong.begin(), wrong.end());
  }
  if (!lost.empty()) lose_whole_groups(plan, state, lost);
  for (const uint32_t index : lost) ++lost_in[plan.tensors[index].out.shard];
  KeptShards result{.kept = {}, .read_back = {}, .lost = {lost.begin(), lost.end()}, .notes = {}};
  for (uint32_t shard = 0; shard < plan.shards.size(); ++shard) {
    const bool keep = found[shard] == Found::kAsItWas || lost_in[shard] < durable[shard];
    result.kept.push_back(keep);
    if (keep && found[shard] == Found::kOtherStamp) result.read_back.push_back(shard);
    if (lost_in[shard] == 0) continue;
    result.notes.push_back(fmt::format("{}.partial is {}: {} of its {} finished tensors are made again",
                                       plan.shards[shard].name, what(found[shard]), lost_in[shard],
                                       durable[shard]));
  }
  return result;
}

}  // namespace nibblecast
