#include "cli/activations.h"

#include <fmt/format.h>

#include <optional>

#include "base/error.h"
#include "calibration/hub_dataset.h"
#include "cli/source.h"
#include "pipeline/destination.h"

namespace nibblecast {
namespace {

void require_file(FileSystem& files, const std::string& path) {
  const auto status = files.status(path);
  if (status && !status->is_folder) return;
  throw Error(ErrorKind::kBadInput, {.file = path}, status ? "is a folder" : "there is no such file");
}

// Of what --calib names.
CalibrationRows load_rows(const ActivationOptions& options, const Checkpoint& source, const Plan& plan,
                          uint64_t memory_bytes) {
  FileSystem& files = source.files();
  const auto sets =
      find_calibration_sets(files, options.calib, options.calib_size, hub_cache(), options.calib_key);
  const std::filesystem::path tokenizer_json = source.folder() / "tokenizer.json";
  std::optional<Tokenizer> tokenizer;
  const auto load_tokenizer = [&]() -> const Tokenizer* {
    if (!files.status(tokenizer_json)) return nullptr;
    return &tokenizer.emplace(Tokenizer::load(files, tokenizer_json));
  };
  RowsOptions rows_options = options.rows;
  rows_options.memory_bytes = memory_bytes;
  CalibrationRows rows =
      read_rows(files, sets, load_tokenizer, plan.model.bos_token_id, plan.model.vocab_size, rows_options);
  check_tokens(rows, options.calib);
  if (options.rows.length > plan.model.max_position_embeddings) {
    rows.warnings.push_back(
        fmt::format("--calib-seq {} is beyond the {} positions that the model was made for "
                    "(max_position_embeddings in config.json)",
                    options.rows.length, plan.model.max_position_embeddings));
  }
  return rows;
}

}  // namespace

void require_one_origin(const ActivationOptions& options) {
  if (options.calib.empty() || options.amax.empty()) return;
  throw Error(ErrorKind::kUsage, {}, "--calib and --amax exclude each other",
              {.hint = "--calib measures, --amax takes what was measured"});
}

void require_origin(const ActivationOptions& options, const Plan& plan) {
  if (!options.calib.empty() || !options.amax.empty() || !plan.needs_activations()) return;
  throw Error(
      ErrorKind::kUsage, {}, "the activations are missing",
      {.hint = "give --calib FILE (texts to calibrate on) or --amax FILE (what `nibblecast calibrate` "
               "measured)"});
}

Activations load_activations(const ActivationOptions& options, const Checkpoint& source, const Plan& plan,
                             const ForwardDevice& device, uint64_t memory_bytes) {
  FileSystem& files = source.files();
  if (options.calib.empty() && options.amax.empty())
    return {.rows = {}, .amax = {}, .origin = "", .identity = "none", .products = ""};
  if (!options.amax.empty()) {
    require_file(files, options.amax);
    return Activations::from_amax(files, options.amax);
  }
  Activations activations =
      Activations::from_rows(load_rows(options, source, plan, memory_bytes), options.calib);
  if (device.cuda) activations.products = device_identity(device);
  return activations;
}

Workload workload_of(const Activations& activations) {
  if (!activations.rows) return {};
  return {.rows = activations.rows->ids.size(),
          .tokens = activations.rows->tokens(),
          .longest_row = activations.rows->longest()};
}

void check_amax_output(const std::filesystem::path& output, const Checkpoint& source) {
  if (lies_in(output, source.folder())) {
    throw Error(ErrorKind::kUsage, {.file = output.string()},
                "lies in the source, which is never written to");
  }
  const auto folder = source.files().status(std::filesystem::absolute(output).parent_path());
  if (!folder || !folder->is_folder) {
    throw Error(ErrorKind::kUsage, {.file = output.string()}, "its folder does not exist");
  }
  const auto status = source.files().status(output);
  if (status && status->is_folder) throw Error(ErrorKind::kUsage, {.file = output.string()}, "is a folder");
}

}  // namespace nibblecast
