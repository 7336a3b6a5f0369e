#include "plan/convert.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"
#include "checkpoint/manifest.h"
#include "checkpoint/run_record.h"
#include "checkpoint/safetensors.h"
#include "plan/linear.h"
#include "plan/packed_linears.h"
#include "plan/weight_sample.h"

namespace nibblecast {
namespace {

// What nibblecast.json keeps of the release that its folder was made of.
struct Release {
  struct Shard {
    std::string name = {};
    SafetensorsHeader header = {};
    uint64_t size_bytes = 0;
  };
  std::string config, index;  // texts; index empty: the release was a single file
  std::vector<Shard> shards;
};

const std::string& text_at(const Json& object, const char* key) {
  return object.at(key).get_ref<const std::string&>();
}

// The weights that quantize could not cast, as the record has them: with blocks outside the cast's window, or
// quantized anew. A count without names is named as such.
std::vector<std::string> changed_weights(const Json& record) {
  std::vector<std::string> names;
  for (const char* list : {"outside_window", "relative_error"}) {
    const Json weights = record.value(list, Json::object());
    for (const auto& [name, unused] : weights.items()) names.push_back(name);
  }
  if (!names.empty()) return names;
  const Json& blocks = record.at("blocks");
  const auto outside = blocks.at("outside_window").get<uint64_t>(),
             total = blocks.at("total").get<uint64_t>();
  if (outside > 0 || blocks.at("lossless").get<uint64_t>() != total)
    names.push_back(fmt::format("{} of {} blocks", outside, total));
  return names;
}

// Nothing where there is no such file.
std::optional<Json> read_record(const Checkpoint& source) {
  const std::filesystem::path path = source.folder() / kRecordName;
  if (!source.files().status(path)) return {};
  return read_run_record(source.files(), source.folder());
}

// Throws what JSON and headers throw where it is not what we write; `file` is named then.
Release release_of(const Json& record, const std::string& file) {
  const Json& recorded = record.at("source");
  Release release{.config = text_at(recorded, "config"), .index = text_at(recorded, "index"), .shards = {}};
  for (const Json& shard : recorded.at("shards")) {
    const auto size = shard.at("size_bytes").get<uint64_t>();
    const std::string& name = text_at(shard, "name");
    release.shards.push_back(
        {.name = name,
         .header = parse_safetensors_header(text_at(shard, "header"), size, file + ": " + name),
         .size_bytes = size});
  }
  return release;
}

class ConvertPlanner {
 public:
  explicit ConvertPlanner(const Checkpoint& source) : source_(source), replacements_(keep_all(source)) {}

  Plan make() {
    plan_.command = "convert";
    plan_.made = "convert mxfp4";
    plan_.weights = weight_sample(source_);
    for (const PackedLinear& packed : find_packed_linears(source_)) {
      if (packed.linear.source.format.stored == StoredFormat::kNvfp4) cast_back(packed);
    }
    if (linears_.empty()) {
      throw Error(ErrorKind::kBadInput, {.file = source_.folder().string()}, "holds no NVFP4 weights",
                  {.hint = "`nibblecast inspect` shows the formats of a checkpoint"});
    }
    lay_out(source_, replacements_, plan_);
    plan_.config = mxfp4_config(source_.config());
    index_output(source_, plan_);
    restore_release();
    order_work();
    return std::move(plan_);
  }

 private:
  void cast_back(const PackedLinear& packed) {
    const Tensor& weight = source_.tensors()[packed.linear.source.weight.tensor];
    // Routed experts are called so in every family, draft layers' too, of which no table speaks.
    if (packed.linear.module.find(".experts.") == std::string::npos) {
      throw Error(ErrorKind::kUnsupported, source_.where(weight),
                  "is NVFP4, but no routed expert: the release does not have it as MXFP4",
                  {.hint = "`nibblecast dequantize` gives BF16"});
    }
    const uint64_t cols = packed.linear.source.format.cols;
    if (cols % 32 != 0) {
      throw Error(ErrorKind::kUnsupported, source_.where(weight), "its columns are no whole blocks of MXFP4",
                  {.expected = "a multiple of 32", .found = std::to_string(cols), .hint = {}});
    }
    replace_linear(packed.linear, {.make = Make::kMxfp4Weight}, {}, replacements_);
    if (packed.input_scale != kNone) replacements_.in_place[packed.input_scale].clear();
    linears_.push_back(packed.linear);
  }

  void restore_release() {
    std::string problem = "the release that it records has other tensors";
    try {
      const std::optional<Json> record = read_record(source_);
      if (!record) {
        warn(std::string("there is no ") + kRecordName +
             " to say whether blocks had to be requantized: values come back as they are here, which need "
             "not be "
             "the release's");
        return;
      }
      check_values(*record);
      if (lay_out_as(release_of(*record, (source_.folder() / kRecordName).string()))) return;
    } catch (const Error& error) {
      // What could not be read today may well be of use.
      if (error.kind() == ErrorKind::kIo) throw;
      problem = error.what();
    } catch (const Json::exception&) {
      problem = "it does not record the release";
    }
    warn(std::string(kRecordName) +
         " is of no use, so that tensors stand in this source's order: " + problem);
  }

  // Exactly or not at all: what the record says of values, whatever it says of the layout.
  void check_values(const Json& record) {
    const std::vector<std::string> changed = changed_weights(record);
    if (!changed.empty()) {
      const std::string rest = changed.size() == 1 ? "" : fmt::format(" and {} more", changed.size() - 1);
      plan_.findings.push_back(
          {.severity = Severity::kRefusal,
           .reason = fmt::format("{} records weights that were requantized, and no longer hold the release's "
                                 "values: {}{}",
                                 kRecordName, changed.front(), rest),
           .remedy = "take the release itself, or `nibblecast dequantize` for the values that are here"});
    }
    const Json options = record.value("options", Json::object());
    if (options.value("negative_zero", "keep") != "keep")
      warn(
          "made with --negative-zero modelopt: all values come back, but each -0 as +0, so that bytes may "
          "differ from the release's");
  }

  void warn(std::string reason) {
    plan_.findings.push_back({.severity = Severity::kWarning, .reason = std::move(reason), .remedy = {}});
  }

  // Moves the plan's tensors to where the release has them; false, and nothing moved, where they differ.
  bool lay_out_as(const Release& release) {
    const auto indices = indices_by_name(plan_);
    std::vector<PlannedTensor> tensors;
    std::vector<PlannedShard> shards;
    uint64_t file_bytes = 0;
    for (const Release::Shard& shard : release.shards) {
      if (shards.size() == plan_.shards.size() || plan_.shards[shards.size()].name != shard.name)
        return false;
      for (const Tensor& tensor : shard.header.tensors) {
        const auto found = indices.find(tensor.name);
        if (found == indices.end()) return false;
        PlannedTensor moved = plan_.tensors[found->second];
        if (moved.out.dtype != tensor.dtype || moved.out.shape != tensor.shape) return false;
        moved.out.shard = static_cast<uint32_t>(shards.size());
        moved.out.offset = tensor.offset;
        tensors.push_back(std::move(moved));
      }
      shards.push_back(planned_shard(shard));
      file_bytes += shard.size_bytes;
    }
    if (tensors.size() != plan_.tensors.size() || shards.size() != plan_.shards.size()) return false;
    plan_.tensors = std::move(tensors);
    plan_.shards = std::move(shards);
    plan_.output_file_bytes = file_bytes;
    plan_.config_text = release.config;
    plan_.index_text = release.index;
    if (release.index.empty()) plan_.index = nullptr;
    return true;
  }

  static PlannedShard planned_shard(const Release::Shard& shard) {
    const uint64_t length = shard.header.json.size();
    std::string header(sizeof length, '\0');
    std::memcpy(header.data(), &length, sizeof length);
    header += shard.header.json;
    const uint64_t begin = header.size();
    return {.name = shard.name,
            .header = std::move(header),
            .size_bytes = shard.size_bytes,
            .scalars_begin = begin,
            .scalars_end = begin};
  }

  void order_work() {
    const auto indices = indices_by_name(plan_);
    std::vector<PlannedLinear> linears;
    for (const SourceLinear& linear : linears_) linears.push_back(planned_linear(linear, {}, indices));
    add_only_stage(source_, linears, plan_);
  }

  const Checkpoint& source_;
  Plan plan_;
  Replacements replacements_;
  std::vector<SourceLinear> linears_;
};

}  // namespace

Plan make_convert_plan(const Checkpoint& source) { return ConvertPlanner(source).make(); }

}  // namespace nibblecast
