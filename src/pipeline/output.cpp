#include "pipeline/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "base/error.h"
#include "base/hash.h"
#include "checkpoint/run_record.h"
#include "pipeline/model_card.h"
#include "pipeline/report.h"
#include "pipeline/verify_checksums.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr const char* kAmaxName = "calibration/amax.safetensors";

// Texts, not values: the release can be rebuilt from them to the byte.
Json source_texts(const Checkpoint& source) {
  Json shards = Json::array();
  for (const Shard& shard : source.shards()) {
    shards.push_back({{"name", shard.name}, {"size_bytes", shard.size_bytes}, {"header", shard.header_json}});
  }
  return {{"config", source.config_text()}, {"index", source.index_text()}, {"shards", std::move(shards)}};
}

Json source_document(const Checkpoint& source) {
  return {{"name", folder_name(source.folder())},
          {"hub", hub_id(source.folder()).empty() ? Json() : Json(hub_id(source.folder()))},
          {"identity", source_identity(source)}};
}

Json options_document(const QuantizeOptions& options) {
  static constexpr const char* kW2Inputs[] = {"max", "weighted", "unweighted"};
  Json engines = Json::array();
  for (const Engine engine : options.engines) engines.push_back(engine_name(engine));
  return {
      {"recipe", without_folders(options.recipe)},
      {"format", output_format_name(options.format)},
      {"recipe_text", options.recipe_text.empty() ? Json() : Json(options.recipe_text)},
      {"weight_method", options.weight_method ? Json(recipe_method_name(*options.weight_method)) : Json()},
      {"kv_cache", options.kv_cache ? Json(kv_cache_name(*options.kv_cache)) : Json()},
      {"compute_dtype", compute_dtype_name(options.compute_dtype)},
      {"input_scale", input_scale_text(options)},
      {"w2_input", kW2Inputs[static_cast<int>(options.w2_input)]},
      {"negative_zero", options.negative_zero == NegativeZero::kKeep ? "keep" : "modelopt"},
      {"engines", std::move(engines)}};
}

Json activations_document(const Activations& activations) {
  Json document = {{"origin", without_folders(activations.origin)}, {"identity", activations.identity}};
  if (activations.rows) {
    document["kind"] = "calibration";
    document["rows"] = activations.rows->ids.size();
    document["tokens"] = activations.rows->tokens();
    document["longest_row"] = activations.rows->longest();
  } else if (activations.amax) {
    document["kind"] = "amax file";
    document["metadata"] = activations.amax->metadata;
  } else {
    document["kind"] = "none";
  }
  return document;
}

Json layers_document(const Plan& plan, const RunRecord& record) {
  Json layers = Json::array();
  for (size_t index = 0; index < record.layers.size(); ++index) {
    const LayerAmax& layer = record.layers[index];
    Json amax = Json::object(), bounds = Json::object();
    for (const auto& [entry, values] : layer.taps)
      if (!values.empty()) amax[entry] = *std::ranges::max_element(values);
    const std::vector<Tap>& taps = plan.model->table.layers[layer.layer].taps;
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      const TapBound& bound = plan.bounds[layer.layer][tap];
      if (std::isfinite(bound.most)) bounds[taps[tap].name] = bound.most;
      if (std::isfinite(bound.most_weighted)) bounds[weighted_tap(taps[tap].name)] = bound.most_weighted;
    }
    layers.push_back({{"layer", layer.layer},
                      {"amax", std::move(amax)},
                      {"bound", std::move(bounds)},
                      {"experts_without_tokens", record.without_tokens[layer.layer]}});
  }
  return layers;
}

// Of what was quantized: the norm of the error over that of the weight.
Json losses_document(const RunRecord& record) {
  Json losses = Json::object();
  for (const auto& [name, loss] : record.losses) {
    losses[name] = loss.squares > 0 ? std::sqrt(loss.squared_error / loss.squares) : 0.0;
  }
  return losses;
}

Json nonfinite_document(const RunRecord& record) {
  Json document = Json::object();
  for (const auto& [name, found] : record.nonfinite)
    document[name] = {{"count", found.count}, {"first_byte", found.first}};
  return document;
}

Json checksums_document(const Plan& plan, const RunRecord& record) {
  Json checksums = Json::object();
  for (size_t index = 0; index < plan.tensors.size(); ++index) {
    const PlannedTensor& tensor = plan.tensors[index];
    Json& place = checksums[tensor.name_in_file()];
    if (tensor.part)
      place.push_back(record.checksums[index]);
    else
      place = record.checksums[index];
  }
  return checksums;
}

// Made of files that were what they are now.
void require_unchanged_source(const Checkpoint& source) {
  for (const Shard& shard : source.shards()) {
    const auto status = source.files().status(source.folder() / shard.name);
    if (status && status->size_bytes == shard.size_bytes && status->mtime_ns == shard.mtime_ns &&
        status->version == shard.version)
      continue;
    throw Error(ErrorKind::kRefused, {.file = (source.folder() / shard.name).string()},
                "was changed while it was read",
                {.hint = "what was made of it is not to be trusted: begin again in another folder"});
  }
}

Json headers_document(const Plan& plan) {
  Json headers = Json::object();
  for (const PlannedShard& shard : plan.shards) headers[shard.name] = hash_of(shard.header);
  return headers;
}

// What is long and for programs: in files of their own, so that nibblecast.json can be looked at.
std::vector<std::pair<std::string, std::string>> record_parts(const Checkpoint& source, const Plan& plan,
                                                              const RunRecord& record) {
  const auto lines = [](const Json& document) {
    return document.dump(0, ' ', true, Json::error_handler_t::replace) + "\n";
  };
  return {{kRecordSourceName, lines(source_texts(source))},
          {kRecordChecksumsName, lines(checksums_document(plan, record))}};
}

// Of every file but shards and nibblecast.json itself.
Json files_document(const Checkpoint& source, const Path& destination,
                    const std::vector<std::pair<std::string, std::string>>& documents) {
  Json checksums = Json::object();
  for (const auto& [name, text] : documents) checksums[name] = hash_of(text);
  if (source.files().status(destination / kAmaxName))
    checksums[kAmaxName] = file_checksum(source.files(), destination / kAmaxName);
  for (const Path& file : side_files(source).taken) {
    checksums[name_in_output(file).string()] =
        file_checksum(source.files(), destination / name_in_output(file));
  }
  return checksums;
}

Json stages_document(const RunRecord& record) {
  // Milliseconds are what is worth to be kept.
  const auto rounded = [](double seconds) { return std::round(seconds * 1000) / 1000; };
  Json stages = Json::array();
  for (const StageTimes& times : record.stages) {
    stages.push_back({{"stage", times.stage},
                      {"seconds", rounded(times.seconds)},
                      {"read_wait", rounded(times.read_wait)},
                      {"forward", rounded(times.forward)},
                      {"make", rounded(times.make)},
                      {"write_wait", rounded(times.write_wait)},
                      {"save", rounded(times.save)},
                      {"bus", rounded(times.bus)},
                      {"device", rounded(times.device)}});
  }
  return stages;
}

// The destination and each folder in it that leads to one of `names`, which are relative: what is to be
// synced so that new files' whole paths are durable.
std::set<Path> folders_of(const Path& destination, std::span<const Path> names) {
  std::set<Path> folders = {destination};
  for (const Path& name : names) {
    for (Path folder = name.parent_path(); !folder.empty(); folder = folder.parent_path())
      folders.insert(destination / folder);
  }
  return folders;
}

void copy_side_files(const Checkpoint& source, const Path& destination) {
  FileSystem& files = source.files();
  std::vector<Path> names;
  for (const Path& file : side_files(source).taken) {
    names.push_back(name_in_output(file));
    const Path to = destination / names.back();
    files.create_folders(to.parent_path());
    files.copy(source.folder() / file, to);
  }
  for (const Path& folder : folders_of(destination, names)) files.sync_folder(folder);
}

}  // namespace

Json run_document(const Checkpoint& source, const Plan& plan, const Activations& activations,
                  const RunRecord& record, const Job& job) {
  const CastCounts& blocks = record.blocks;
  return {
      {"format", "nibblecast.run/1"},
      {"version", NIBBLECAST_VERSION},
      {"finished", utc_now()},
      {"seconds", record.seconds},
      {"source", source_document(source)},
      {"command", plan.command},
      {"command_line", job.command() ? Json(published_command_text(*job.command())) : Json()},
      {"options", plan.command == "quantize" ? options_document(plan.options) : Json{{"made", plan.made}}},
      {"activations", activations_document(activations)},
      {"blocks",
       {{"total", blocks.blocks},
        {"lossless", blocks.blocks - blocks.outside_window},
        {"zero", blocks.zero_blocks},
        {"outside_window", blocks.outside_window}}},
      {"outside_window", record.outside_window},
      {"relative_error", losses_document(record)},
      {"inexact", record.inexact},
      {"nonfinite", nonfinite_document(record)},
      {"perplexity", perplexity_document(record)},
      {"layers", layers_document(plan, record)},
      {"bytes", {{"read", record.read_bytes}, {"written", record.written_bytes}}},
      {"stages", stages_document(record)},
      {"attempts", published_attempts(job.attempts_json("finished"))},
      {"tensors", plan.file_tensors()},
      {"identity", identity_hash(run_identity(source, plan, activations))}};
}

Json perplexity_document(const RunRecord& record) {
  if (!record.perplexity) return {};
  const double value = record.perplexity->value();
  return {{"value", std::isfinite(value) ? Json(value) : Json()}, {"tokens", record.perplexity->tokens}};
}

std::set<Path> output_names(const Checkpoint& source) {
  std::set<Path> names = {*Path(kAmaxName).begin(), kRecordFolder};
  for (const char* document : {"README.md", "hf_quant_config.json", "model.safetensors.index.json",
                               "config.json", kRecordName, kReportName, kReportPageName}) {
    names.insert(document);
    names.insert(document + std::string(".partial"));
  }
  for (const Path& file : side_files(source).taken) names.insert(name_in_output(file));
  return names;
}

std::set<Path> shard_folders(const Plan& plan, const Path& destination) {
  std::vector<Path> names;
  for (const PlannedShard& shard : plan.shards) names.emplace_back(shard.name);
  return folders_of(destination, names);
}

uint64_t side_file_bytes(const Checkpoint& source) {
  uint64_t bytes = 0;
  for (const Path& file : side_files(source).taken) {
    if (const auto status = source.files().status(source.folder() / file)) bytes += status->size_bytes;
  }
  return bytes;
}

void finish_output(const Checkpoint& source, const Plan& plan, const Activations& activations,
                   const RunRecord& record, Job& job, const Path& destination,
                   const std::string& base_model) {
  FileSystem& files = source.files();
  require_unchanged_source(source);
  const auto name_of = [&](const PlannedShard& shard) { return destination / shard.name; };
  copy_side_files(source, destination);
  if (activations.rows || activations.amax) {
    files.create_folders(destination / "calibration");
    write_amax(
        files, destination / kAmaxName,
        {.metadata = activations.rows ? amax_metadata(source, plan, *activations.rows, record.perplexity)
                                      : activations.amax->metadata,
         .layers = record.layers});
  }
  for (const PlannedShard& shard : plan.shards) {
    files.rename(name_of(shard).string() + ".partial", name_of(shard));
  }
  for (const Path& folder : shard_folders(plan, destination)) files.sync_folder(folder);
  // config.json last: with it the folder is a checkpoint.
  std::vector<std::pair<std::string, std::string>> documents = {
      {"README.md", model_card(source, plan, activations, record, base_model)}};
  if (!plan.hf_quant_config.is_null())
    documents.emplace_back("hf_quant_config.json", document_text(plan.hf_quant_config));
  const auto text_of = [](const std::string& text, const Json& document) {
    return text.empty() ? document_text(document) : text;
  };
  if (!plan.index.is_null())
    documents.emplace_back("model.safetensors.index.json", text_of(plan.index_text, plan.index));
  documents.emplace_back("config.json", text_of(plan.config_text, plan.config));
  Json run = run_document(source, plan, activations, record, job);
  run["headers"] = headers_document(plan);
  const auto parts = record_parts(source, plan, record);
  files.create_folders(destination / kRecordFolder);
  for (const auto& [name, text] : parts) write_text_durably(files, destination / name, text);
  files.sync_folder(destination);
  run["files"] = files_document(source, destination, documents);
  for (const auto& [name, text] : parts) run["files"][name] = hash_of(text);
  write_text_durably(files, destination / kRecordName, document_text(run));
  for (const auto& [name, text] : documents) write_text_durably(files, destination / name, text);
  job.close();
}

}  // namespace nibblecast
