#include "pipeline/saved_evaluation.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "pipeline/saved_streams.h"

namespace nibblecast {
namespace {

constexpr const char* kFormat = "nibblecast.evaluation/1";
constexpr const char* kStateName = "evaluation.json";
constexpr uint64_t kStateLimit = 256 << 20;

// JSON has no NaN: null. What does not apply is left out.
Json double_json(double value) { return std::isfinite(value) ? Json(value) : Json(); }
double double_of(const Json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

constexpr std::pair<const char*, std::optional<double> LayerErrors::*> kParts[] = {
    {"mixer_error", &LayerErrors::mixer_error},
    {"ffn_error", &LayerErrors::ffn_error},
    {"routing_moved", &LayerErrors::routing_moved}};

Json errors_json(const LayerErrors& errors) {
  Json json = {{"layer", errors.layer},
               {"stream_error", double_json(errors.stream_error)},
               {"stream_cosine", double_json(errors.stream_cosine)}};
  for (const auto& [name, part] : kParts)
    if (errors.*part) json[name] = double_json(*(errors.*part));
  return json;
}

LayerErrors errors_of(const Json& json) {
  LayerErrors errors{.layer = json.at("layer"),
                     .stream_error = double_of(json.at("stream_error")),
                     .stream_cosine = double_of(json.at("stream_cosine"))};
  for (const auto& [name, part] : kParts)
    if (json.contains(name)) errors.*part = double_of(json.at(name));
  return errors;
}

Json rounded_json(const std::optional<RoundedBlocks>& rounded) {
  return rounded ? Json{rounded->blocks, rounded->saturated} : Json();
}
std::optional<RoundedBlocks> rounded_of(const Json& json) {
  if (json.is_null()) return std::nullopt;
  return RoundedBlocks{json.at(0), json.at(1)};
}

Json state_json(const EvaluationState& state, const std::string& identity) {
  Json models = Json::array();
  for (size_t index = 0; index < state.streams.size(); ++index) {
    Json errors = Json::array();
    for (const LayerErrors& layer : state.errors[index]) errors.push_back(errors_json(layer));
    const SavedStreams& streams = state.streams[index];
    models.push_back({{"file", streams.file},
                      {"size_bytes", streams.size_bytes},
                      {"checksum", streams.checksum},
                      {"rounded", rounded_json(state.rounded[index])},
                      {"errors", std::move(errors)}});
  }
  return {{"format", kFormat}, {"identity", identity}, {"layer", state.layer}, {"models", std::move(models)}};
}

EvaluationState state_of(const Json& json) {
  EvaluationState state{.layer = json.at("layer")};
  for (const Json& model : json.at("models")) {
    state.streams.push_back({.layer = state.layer,
                             .file = model.at("file"),
                             .size_bytes = model.at("size_bytes"),
                             .checksum = model.at("checksum")});
    state.rounded.push_back(rounded_of(model.at("rounded")));
    std::vector<LayerErrors>& errors = state.errors.emplace_back();
    for (const Json& layer : model.at("errors")) errors.push_back(errors_of(layer));
  }
  return state;
}

}  // namespace

SavedEvaluation::SavedEvaluation(FileSystem& files, std::filesystem::path folder, std::string identity)
    : files_(files), folder_(std::move(folder)), identity_(std::move(identity)) {
  files_.create_folders(folder_);
  lock_ = lock_work_folder(files_, folder_);
  read();
}

std::filesystem::path SavedEvaluation::model_folder(size_t model) const {
  return folder_ / fmt::format("model-{}", model);
}

void SavedEvaluation::read() {
  const std::filesystem::path path = folder_ / kStateName;
  if (!files_.status(path)) return;
  const Json json = parse_json(read_text(files_, path, kStateLimit), path.string());
  const auto refuse = [&](const char* problem) {
    throw Error(ErrorKind::kRefused, {.file = path.string()}, problem,
                {.hint = "name another --work-dir, or remove this file to begin again"});
  };
  if (at_or_null(json, "format") != kFormat) refuse("is no state of an evaluation");
  if (at_or_null(json, "identity") != identity_)
    refuse("is the state of another evaluation: of other models, files, texts, options or products");
  try {
    state_ = state_of(json);
  } catch (const Json::exception&) {
    refuse("is damaged");
  }
}

bool SavedEvaluation::load(size_t model, ForwardPass& pass) const {
  return model < state_->streams.size() &&
         load_streams(files_, model_folder(model), state_->streams[model], pass);
}

void SavedEvaluation::save(EvaluationState state, const std::vector<const ForwardPass*>& passes) {
  for (size_t model = 0; model < passes.size(); ++model) {
    files_.create_folders(model_folder(model));
    state.streams.push_back(save_streams(files_, model_folder(model), state.layer, *passes[model]));
  }
  write_text_durably(files_, folder_ / kStateName, state_json(state, identity_).dump() + "\n");
  for (size_t model = 0; model < passes.size(); ++model)
    remove_streams(files_, model_folder(model), state.streams[model].file);
  state_ = std::move(state);
}

void SavedEvaluation::remove() {
  if (files_.status(folder_ / kStateName)) files_.remove(folder_ / kStateName);
  if (!state_) return;
  for (size_t model = 0; model < state_->streams.size(); ++model)
    remove_streams(files_, model_folder(model), "");
}

}  // namespace nibblecast
