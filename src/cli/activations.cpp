#include "cli/activations.h"

#include <fmt/format.h>

#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "calibration/amax_file.h"
#include "calibration/hub_dataset.h"
#include "checkpoint/printable.h"
#include "cli/fetch_dataset.h"
#include "cli/source.h"
#include "pipeline/destination.h"
#include "plan/amax_fit.h"

namespace nibblecast {
namespace {

void require_file(FileSystem& files, const std::string& path) {
  const auto status = files.status(path);
  if (status && !status->is_folder) return;
  throw Error(ErrorKind::kBadInput, {.file = path}, status ? "is a folder" : "there is no such file");
}

// What --calib names.
std::vector<CalibrationSet> sets_of(const ActivationOptions& options, FileSystem& files) {
  return find_calibration_sets(files, options.calib, options.calib_size, hub_cache(), options.calib_key,
                               options.default_size, fetch_dataset);
}

struct Input {
  std::string path;
  const char* what;
};

// Every file that the command reads, as far as it has a name.
std::vector<Input> inputs_of(const ActivationOptions& options, const QuantizeOptions& recipe,
                             const Checkpoint& source) {
  std::vector<Input> inputs;
  if (!options.calib.empty()) {
    for (const CalibrationSet& set : sets_of(options, source.files())) {
      for (const std::string& file : set.files) inputs.push_back({file, "the calibration texts"});
    }
  }
  if (!options.amax.empty()) inputs.push_back({options.amax, "--amax"});
  inputs.push_back({recipe.recipe, "--recipe"});
  for (const Shard& shard : source.shards())
    inputs.push_back({(source.folder() / shard.name).string(), "the source"});
  for (const std::filesystem::path& file : source.side_files())
    inputs.push_back({(source.folder() / file).string(), "the source"});
  return inputs;
}

// Under any name, and through links. The amax file is written to `output`.partial first.
void require_other_file(const std::string& output, const std::string& input, const char* what) {
  for (const std::string& written : {output, output + ".partial"}) {
    std::error_code missing;
    if (!std::filesystem::equivalent(written, input, missing)) continue;
    throw Error(ErrorKind::kRefused, {.file = written}, fmt::format("is an input of this command: {}", what),
                {.hint = "name another file"});
  }
}

// kRefused unless it is an amax file.
AmaxFile read_existing_amax(FileSystem& files, const std::string& path) {
  try {
    return read_amax(files, path);
  } catch (const Error& error) {
    throw Error(ErrorKind::kRefused, {.file = path}, "exists, and is no amax file of this calibration",
                {.hint = "name another file, or remove it"});
  }
}

// Of this calibration's own file: it has second moments where this run would measure them, and only there.
void require_same_moments(const std::string& output, const Plan& plan, const AmaxFile& found) {
  const bool asked = plan.options.second_moments;
  if (std::ranges::all_of(found.layers,
                          [&](const LayerAmax& layer) { return layer.second_moments.empty() != asked; }))
    return;
  throw Error(ErrorKind::kRefused, {.file = output},
              asked ? "is this calibration's amax file without second moments"
                    : "holds second moments too, which this run would not measure",
              {.hint = asked ? "name another file, or remove it"
                             : "give `calibrate` --second-moments, name another file, or remove it"});
}

// The libraries' messages speak of --calib.
std::string renamed(std::string text, const std::string& option) {
  constexpr std::string_view kCalib = "--calib";
  for (size_t at = text.find(kCalib); at != text.npos; at = text.find(kCalib, at + option.size()))
    text.replace(at, kCalib.size(), option);
  return text;
}

CalibrationRows read_text_rows(const ActivationOptions& options, const Checkpoint& source,
                               const Vocabulary& vocabulary, uint64_t memory_bytes) {
  FileSystem& files = source.files();
  const std::vector<CalibrationSet> sets = sets_of(options, files);
  const std::filesystem::path tokenizer_json = source.folder() / "tokenizer.json";
  std::optional<Tokenizer> tokenizer;
  const auto load_tokenizer = [&]() -> const Tokenizer* {
    if (!files.status(tokenizer_json)) return nullptr;
    return &tokenizer.emplace(Tokenizer::load(files, tokenizer_json));
  };
  RowsOptions rows_options = options.rows;
  rows_options.memory_bytes = memory_bytes;
  CalibrationRows rows =
      read_rows(files, sets, load_tokenizer, vocabulary.bos_token_id, vocabulary.size, rows_options);
  const uint64_t positions = vocabulary.max_position_embeddings;
  if (positions > 0 && options.rows.length > positions) {
    rows.warnings.push_back(
        fmt::format("--calib-seq {} is beyond the {} positions that the model was made for "
                    "(max_position_embeddings in config.json)",
                    options.rows.length, positions));
  }
  return rows;
}

}  // namespace

CalibrationRows load_rows(const ActivationOptions& options, const Checkpoint& source,
                          const Vocabulary& vocabulary, uint64_t memory_bytes) {
  try {
    CalibrationRows rows = read_text_rows(options, source, vocabulary, memory_bytes);
    for (std::string& warning : rows.warnings) warning = renamed(std::move(warning), options.option);
    return rows;
  } catch (const Error& error) {
    const Detail& detail = error.detail();
    throw Error(
        error.kind(), error.where(), renamed(error.problem(), options.option),
        {.expected = detail.expected, .found = detail.found, .hint = renamed(detail.hint, options.option)});
  }
}

void require_one_origin(const ActivationOptions& options) {
  if (options.calib.empty() || options.amax.empty()) return;
  throw Error(ErrorKind::kUsage, {}, "--calib and --amax exclude each other",
              {.hint = "--calib measures, --amax takes what was measured"});
}

void require_origin(const ActivationOptions& options, const Plan& plan) {
  if (plan.needs_second_moments() && options.amax.empty()) {
    throw Error(
        ErrorKind::kUsage, {}, "weight_method wmse needs second moments of the activations",
        {.hint =
             "measure them first: `nibblecast calibrate SRC --calib TEXTS --second-moments -o FILE`, then "
             "give --amax FILE in place of --calib; or take --weight-method mse, which needs none"});
  }
  if (!options.amax.empty() && plan.options.input_scale == InputScalePolicy::kConstant &&
      !plan.needs_second_moments()) {
    throw Error(ErrorKind::kUsage, {}, "--amax and a constant --input-scale exclude each other",
                {.hint = "nothing of the amax file would be used"});
  }
  if (!options.calib.empty() || !options.amax.empty() || !plan.needs_activations()) return;
  throw Error(ErrorKind::kUsage, {}, "the activations are missing",
              {.hint = "give --calib FILE (texts to calibrate on), --amax FILE (what `nibblecast calibrate` "
                       "measured), or --input-scale 1.0 (a constant: nothing is measured)"});
}

Activations load_activations(const ActivationOptions& options, const Checkpoint& source, const Plan& plan,
                             const ForwardDevice& device, uint64_t memory_bytes) {
  FileSystem& files = source.files();
  if (options.calib.empty() && options.amax.empty())
    return {.rows = {}, .amax = {}, .origin = "", .identity = "none", .products = ""};
  if (!options.amax.empty()) {
    require_file(files, options.amax);
    Activations activations = Activations::from_amax(files, options.amax);
    require_fitting_amax(plan, *activations.amax, options.amax);
    activations.warnings = amax_warnings(source, plan, *activations.amax, options.amax);
    return activations;
  }
  CalibrationRows rows = load_rows(options, source, plan.model->vocabulary, memory_bytes);
  check_tokens(rows, options.calib);
  Activations activations = Activations::from_rows(std::move(rows), options.calib);
  if (device.cuda) activations.products = device_identity(device);
  return activations;
}

void check_amax_output(const std::string& output, const ActivationOptions& options,
                       const QuantizeOptions& recipe, const Checkpoint& source) {
  if (lies_in(source.files(), output, source.folder())) {
    throw Error(ErrorKind::kUsage, {.file = output}, "lies in the source, which is never written to");
  }
  FileSystem& files = source.files();
  const std::filesystem::path folder = std::filesystem::absolute(output).parent_path();
  const auto folder_status = files.status(folder);
  if (!folder_status || !folder_status->is_folder) {
    throw Error(ErrorKind::kUsage, {.file = output}, "its folder does not exist");
  }
  const auto status = files.status(output);
  if (status && status->is_folder) throw Error(ErrorKind::kUsage, {.file = output}, "is a folder");
  for (const auto& [input, what] : inputs_of(options, recipe, source))
    require_other_file(output, input, what);
  if (status) read_existing_amax(files, output);
  if (!files.disk(folder).is_writable) {
    throw Error(ErrorKind::kRefused, {.file = output}, "its folder cannot be written to",
                {.hint = "change its permissions, or name another file"});
  }
}

bool require_own_amax(const std::string& output, const Checkpoint& source, const Plan& plan,
                      const CalibrationRows& rows) {
  FileSystem& files = source.files();
  if (!files.status(output)) return false;
  const AmaxFile found = read_existing_amax(files, output);
  const auto own = amax_metadata(source, plan, rows, std::nullopt);
  for (const auto& [key, what] : {std::pair("model", "model"),
                                  {"weights", "weights"},
                                  {"calibration", "calibration rows"},
                                  {"compute_dtype", "--compute-dtype"}}) {
    const auto said = found.metadata.find(key);
    if (said != found.metadata.end() && said->second == own.at(key)) continue;
    throw Error(ErrorKind::kRefused, {.file = output},
                fmt::format("is another calibration's amax file: its {} differ", what),
                {.expected = own.at(key),
                 .found = said == found.metadata.end() ? "none" : printable(said->second),
                 .hint = "name another file, or remove it"});
  }
  require_same_moments(output, plan, found);
  return found.layers.size() == plan.layers();
}

}  // namespace nibblecast
