#include "pipeline/verify_data.h"

#include <algorithm>
#include <memory>

#include "pipeline/verify_kept.h"
#include "pipeline/verify_linears.h"
#include "pipeline/verify_steps.h"

namespace nibblecast {
namespace {

class DataChecker {
 public:
  DataChecker(const DataCheck& check, ProblemList& problems, VerifyReport& report)
      : check_(check),
        steps_(list_steps(check)),
        kept_(check, problems, report),
        cast_(check, problems, report),
        made_(check, problems, report) {}

  void run() {
    compare_all();
    kept_.report();
    made_.report();
    cast_.report_mixed_signs();
  }

 private:
  void compare_all() {
    std::vector<std::unique_ptr<File>> files;
    for (const Shard& shard : check_.source.shards()) {
      files.push_back(check_.source.files().open(check_.source.folder() / shard.name, Access::kReadDirect));
    }
    for (const std::string& shard : check_.output.shards) {
      files.push_back(check_.files.open(check_.output.path / shard, Access::kReadDirect));
    }
    std::vector<ReadUnit> reads;
    uint64_t total = 0, done = 0;
    for (const Step& step : steps_) {
      reads.push_back(step.reads);
      for (const FileRange& range : step.reads) total += range.size_bytes;
    }
    Reader reader(std::move(files), std::move(reads), check_.options.memory_bytes);
    for (const Step& step : steps_) {
      {
        const Reader::Loaded loaded = reader.next();
        step.group == nullptr ? kept_.compare(step, loaded) : compare_group(step, loaded);
      }
      for (const FileRange& range : step.reads) done += range.size_bytes;
      report_progress(step, done, total);
    }
  }

  void report_progress(const Step& step, uint64_t done, uint64_t total) const {
    if (!check_.options.progress) return;
    check_.options.progress({.stage = check_.source.shards()[step.shard].name,
                             .stages_done = step.shard,
                             .stages = check_.source.shards().size(),
                             .bytes_done = done,
                             .bytes = total});
  }

  void compare_group(const Step& step, const Reader::Loaded& loaded) {
    const std::vector<LinearPair> linears = linears_of(check_, step, loaded);
    const auto is_cast = [&](const PlannedLinear& linear) {
      return check_.plan.tensors[linear.weight].make == Make::kCastWeight;
    };
    cast_.compare(step, linears);
    if (!std::ranges::all_of(step.group->linears, is_cast)) made_.compare(step, linears);
  }

  const DataCheck& check_;
  const std::vector<Step> steps_;
  KeptChecker kept_;
  CastChecker cast_;
  MadeChecker made_;
};

}  // namespace

void check_data(const DataCheck& check, ProblemList& problems, VerifyReport& report) {
  DataChecker(check, problems, report).run();
}

}  // namespace nibblecast
