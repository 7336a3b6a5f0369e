#include "pipeline/synth.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "checkpoint/safetensors.h"
#include "model/family.h"
#include "pipeline/synth_content.h"
#include "pipeline/synth_side_files.h"

namespace nibblecast {
namespace {

constexpr size_t kChunkBytes = size_t{4} << 20;  // measured: larger requests are no faster
static_assert(kChunkBytes % kDirectAlignment == 0);

// ---- which model ----

[[noreturn]] void refuse_option(const std::string& option, const std::string& expected,
                                const std::string& found) {
  throw Error(ErrorKind::kUsage, {}, "the model cannot have these " + option,
              {.expected = expected, .found = found});
}

// Per-layer lists of the config, cut to the range; what draft layers have behind them goes. Lists of layers
// hold those that are left, by their new numbers.
void cut_lists(Json& config, const LayerRange& range) {
  for (const char* key : {"compress_ratios", "layer_types", "mlp_layer_types"}) {
    if (!config.contains(key) || config[key].is_null()) continue;
    Json cut = Json::array();
    for (uint64_t layer = range.first; layer <= range.last; ++layer) cut.push_back(config[key].at(layer));
    config[key] = std::move(cut);
  }
  if (!at_or_null(config, "mlp_only_layers").is_array()) return;
  Json left = Json::array();
  for (const Json& layer : config["mlp_only_layers"]) {
    if (layer >= range.first && layer <= range.last) left.push_back(layer.get<uint64_t>() - range.first);
  }
  config["mlp_only_layers"] = std::move(left);
}

// Counts of first layers: of those in the range.
void cut_counts(Json& config, const LayerRange& range) {
  for (const char* key : {"num_hash_layers", "first_k_dense_replace", "max_window_layers"}) {
    if (!at_or_null(config, key).is_number_integer()) continue;
    const uint64_t end = std::min(config[key].get<uint64_t>(), range.last + 1);
    config[key] = end - std::min(end, range.first);
  }
}

void cut_layers(Json& config, const Model& model, const LayerRange& range) {
  if (range.first > range.last || range.last >= model.layers()) {
    refuse_option("layers", "A..B with A <= B < " + std::to_string(model.layers()),
                  std::to_string(range.first) + ".." + std::to_string(range.last));
  }
  cut_lists(config, range);
  cut_counts(config, range);
  config["num_hidden_layers"] = range.last - range.first + 1;
  if (config.contains("num_nextn_predict_layers")) config["num_nextn_predict_layers"] = 0;
}

void set_experts(Json& config, const Model& model, uint64_t experts) {
  constexpr uint64_t kMostExperts = 65536;
  uint64_t top = 0;
  for (const LayerTable& layer : model.table.layers) top = std::max(top, layer.top);
  if (top == 0) refuse_option("experts", "none: its layers are dense", std::to_string(experts));
  if (experts < top || experts > kMostExperts) {
    refuse_option("experts",
                  "from num_experts_per_tok = " + std::to_string(top) + " to " + std::to_string(kMostExperts),
                  std::to_string(experts));
  }
  for (const char* key : {"n_routed_experts", "num_local_experts", "num_experts"})
    if (config.contains(key)) config[key] = experts;
}

// What of config.json speaks of the text model.
Json& text_of(Json& config) {
  const auto section = config.find("text_config");
  return section != config.end() && section->is_object() ? *section : config;
}

Json adapted_config(Json config, const std::string& file, const SynthOptions& options) {
  const Model model = read_model(config, file);
  if (model.vocabulary.size < kSynthTokens) {
    throw Error(ErrorKind::kBadInput, {.file = file}, "'vocab_size' is too small for a tokenizer of bytes",
                {.expected = "at least " + std::to_string(kSynthTokens),
                 .found = std::to_string(model.vocabulary.size)});
  }
  if (options.fp8_experts) {
    if (!std::holds_alternative<DeepseekV4Config>(model.spec))
      throw Error(ErrorKind::kUsage, {}, "only DeepSeek-V4 has releases with FP8 experts");
    config["expert_dtype"] = "fp8";
  }
  Json& text = text_of(config);
  if (options.layers) cut_layers(text, model, *options.layers);
  if (options.experts) set_experts(text, model, *options.experts);
  text["bos_token_id"] = kSynthBos;
  text["eos_token_id"] = kSynthEos;
  return config;
}

bool has_draft_layer(const Json& config, const std::string& file) {
  const Json layers = config.value("num_nextn_predict_layers", Json(0));
  if (layers == 0) return false;
  if (layers == 1) return true;
  throw Error(ErrorKind::kUnsupported, {.file = file},
              "'num_nextn_predict_layers' has a value that is not supported",
              {.expected = "0 or 1", .found = layers.dump(-1, ' ', false, Json::error_handler_t::replace)});
}

// ---- what stands where ----

struct PlacedTensor {
  Tensor stored;  // offset relative to the data's begin
  SynthContent content;
  bool is_norm = false;
};

struct SynthShard {
  std::string name;
  std::vector<PlacedTensor> tensors;  // by offset
  uint64_t data_bytes = 0;
};

bool is_embedding(const ModelTable& table, const std::string& tensor) {
  const WeightModule* const embedding = table.globals.find({.role = Role::kEmbedding});
  return embedding != nullptr && tensor == embedding->name + ".weight";
}

// The tensors of each shard: the embedding; a layer each; what else is outside of layers; the draft layer.
std::vector<PlacedTensor> tensors_of_shard(const Model& model, uint64_t shard, uint64_t seed) {
  const bool is_outside = shard == 0 || shard == model.layers() + 1;
  const uint64_t layer = shard <= model.layers() ? shard - 1 : model.layers();
  std::vector<PlacedTensor> tensors;
  for (SynthTensor& each :
       family_named(model.family).synth(model, is_outside ? std::nullopt : std::optional(layer))) {
    if (is_outside && is_embedding(model.table, each.stored.name) != (shard == 0)) continue;
    const SynthContent content(each, seed);
    tensors.push_back({std::move(each.stored), content, each.is_norm});
  }
  return tensors;
}

SynthShard lay_out_shard(const Model& model, uint64_t shard, uint64_t shards, uint64_t seed) {
  SynthShard result;
  char name[64];
  std::snprintf(name, sizeof name, "model-%05llu-of-%05llu.safetensors",
                static_cast<unsigned long long>(shard + 1), static_cast<unsigned long long>(shards));
  result.name = name;
  result.tensors = tensors_of_shard(model, shard, seed);
  // As the safetensors library does: widest dtypes first (its order, which Dtype follows), then by name.
  std::sort(result.tensors.begin(), result.tensors.end(), [](const PlacedTensor& a, const PlacedTensor& b) {
    return a.stored.dtype != b.stored.dtype ? a.stored.dtype > b.stored.dtype : a.stored.name < b.stored.name;
  });
  for (PlacedTensor& tensor : result.tensors) {
    tensor.stored.offset = result.data_bytes;
    result.data_bytes += tensor.stored.size_bytes;
  }
  return result;
}

std::string header_of(const SynthShard& shard) {
  std::vector<Tensor> tensors;
  for (const PlacedTensor& tensor : shard.tensors) tensors.push_back(tensor.stored);
  return write_safetensors_header(tensors, {});
}

// ---- writing ----

// Bytes [begin, begin + to.size()) of the shard's file.
void fill_range(const SynthShard& shard, const std::string& header, uint64_t begin, std::span<std::byte> to) {
  if (begin < header.size()) {
    const size_t count = std::min<uint64_t>(header.size() - begin, to.size());
    std::memcpy(to.data(), header.data() + begin, count);
    begin += count;
    to = to.subspan(count);
  }
  uint64_t at = begin - std::min<uint64_t>(begin, header.size());
  auto tensor =
      std::upper_bound(shard.tensors.begin(), shard.tensors.end(), at,
                       [](uint64_t offset, const PlacedTensor& t) { return offset < t.stored.end(); });
  for (; !to.empty(); ++tensor) {
    const size_t count = std::min<uint64_t>(tensor->stored.end() - at, to.size());
    tensor->content.fill(at - tensor->stored.offset, to.first(count));
    at += count;
    to = to.subspan(count);
  }
}

class Reporter {
 public:
  Reporter(const SynthOptions& options, uint64_t bytes) : options_(options), bytes_(bytes) {}
  void wrote(const std::string& shard, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    if (options_.progress) options_.progress(shard, done_, bytes_);
  }

 private:
  const SynthOptions& options_;
  const uint64_t bytes_;
  std::mutex mutex_;
  uint64_t done_ = 0;
};

void write_whole(File& file, const SynthShard& shard, const std::string& header, Reporter& reporter) {
  const uint64_t size = header.size() + shard.data_bytes;
  parallel_for((size + kChunkBytes - 1) / kChunkBytes, [&](size_t chunk) {
    const uint64_t begin = chunk * kChunkBytes;
    const uint64_t count = std::min<uint64_t>(kChunkBytes, size - begin);
    const Buffer buffer(kChunkBytes);
    fill_range(shard, header, begin, buffer.bytes().first(count));
    const uint64_t direct = round_down(count, kDirectAlignment);
    file.write(begin, buffer.bytes().first(direct));
    file.write(begin + direct, buffer.bytes().subspan(direct, count - direct));
    reporter.wrote(shard.name, begin + count - std::clamp<uint64_t>(header.size(), begin, begin + count));
  });
}

void write_sparse(File& file, const SynthShard& shard, const std::string& header, Reporter& reporter) {
  file.write(0, std::as_bytes(std::span(header)));
  for (const PlacedTensor& tensor : shard.tensors) {
    if (!tensor.is_norm) continue;
    std::vector<std::byte> bytes(tensor.stored.size_bytes);
    tensor.content.fill(0, bytes);
    file.write(header.size() + tensor.stored.offset, bytes);
  }
  reporter.wrote(shard.name, shard.data_bytes);
}

void write_shard(const SynthShard& shard, bool sparse, const std::filesystem::path& out, FileSystem& files,
                 Reporter& reporter) {
  const std::string header = header_of(shard);
  const std::filesystem::path partial = out / (shard.name + ".partial");
  const auto file = files.open(partial, sparse ? Access::kCreate : Access::kCreateDirect);
  file->set_size(header.size() + shard.data_bytes);
  (sparse ? write_sparse : write_whole)(*file, shard, header, reporter);
  file->sync();
  file->close();
  files.rename(partial, out / shard.name);
}

void require_empty(const std::filesystem::path& out, FileSystem& files) {
  const auto status = files.status(out);
  if (!status || (status->is_folder && files.list(out).empty())) return;
  throw Error(ErrorKind::kRefused, {.file = out.string()}, "is not an empty folder",
              {.hint = "name a new folder, or remove this one"});
}

std::string describe(const SynthOptions& options) {
  std::string text = "Seed " + std::to_string(options.seed);
  if (options.layers) {
    text += ", layers " + std::to_string(options.layers->first) + " to " +
            std::to_string(options.layers->last) + " of the configuration, numbered from 0";
  }
  return text + (options.sparse ? ". Headers and norm vectors only: all other bytes are zero." : ".");
}

}  // namespace

void synthesize(const Json& source, const std::string& config_file, const SynthOptions& options,
                const std::filesystem::path& out, FileSystem& files) {
  const Json json = adapted_config(source, config_file, options);
  const Model model = read_model(json, config_file);
  const bool is_v4 = std::holds_alternative<DeepseekV4Config>(model.spec);
  const uint64_t shards = model.layers() + (is_v4 && has_draft_layer(json, config_file) ? 3 : 2);
  require_empty(out, files);
  files.create_folders(out);
  write_synth_side_files(files, out, describe(options), model.vocabulary.max_position_embeddings);

  uint64_t total_size = 0;
  for (uint64_t shard = 0; shard < shards; ++shard) {
    for (const PlacedTensor& tensor : tensors_of_shard(model, shard, options.seed))
      total_size += tensor.stored.size_bytes;
  }
  Reporter reporter(options, total_size);
  Json weight_map = Json::object();
  for (uint64_t index = 0; index < shards; ++index) {
    const SynthShard shard = lay_out_shard(model, index, shards, options.seed);
    write_shard(shard, options.sparse, out, files, reporter);
    for (const PlacedTensor& tensor : shard.tensors) weight_map[tensor.stored.name] = shard.name;
  }
  files.sync_folder(out);
  const Json index = {{"metadata", {{"total_size", total_size}}}, {"weight_map", std::move(weight_map)}};
  write_text_durably(files, out / "model.safetensors.index.json", index.dump(2) + "\n");
  write_text_durably(files, out / "config.json", json.dump(2) + "\n");
}

}  // namespace nibblecast
