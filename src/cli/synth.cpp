#include "pipeline/synth.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/progress.h"
#include "cli/reply.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "model/family.h"

namespace nibblecast {
namespace {

constexpr uint64_t kConfigLimit = 16 << 20;

struct SynthArguments {
  std::string config, output;
  SynthOptions options;
};

LayerRange parse_layers(const std::string& text) {
  const size_t dots = text.find("..");
  const auto first = parse_number(text.substr(0, dots));
  const auto last = dots == std::string::npos ? first : parse_number(text.substr(dots + 2));
  if (first && last && *first <= *last) return {*first, *last};
  throw CLI::ValidationError("--layers",
                             fmt::format("'{}' is not a range (expected A..B, both included)", text));
}

Json config_of(const SynthArguments& arguments, FileSystem& files) {
  const auto names = preset_names();
  if (std::find(names.begin(), names.end(), arguments.config) != names.end())
    return preset_config(arguments.config);
  const auto status = files.status(arguments.config);
  if (!status) {
    throw Error(ErrorKind::kUsage, {}, "no configuration '" + arguments.config + "'",
                {.expected = fmt::format("{} or the path of a config.json", fmt::join(names, ", "))});
  }
  std::filesystem::path path = arguments.config;
  if (status->is_folder) path /= "config.json";
  return parse_json(read_text(files, path, kConfigLimit), path.string());
}

int run(SynthArguments& arguments, const CommonOptions& common) {
  FileSystem& files = system_files();
  const Json config = config_of(arguments, files);
  uint64_t made_bytes = 0;
  {
    // Holes take no time: a line a shard would only scroll.
    ProgressPrinter printer(common.quiet || arguments.options.sparse);
    arguments.options.progress = [&](const std::string& shard, uint64_t bytes_done, uint64_t bytes) {
      made_bytes = bytes;
      printer.update(shard, bytes_done, bytes);
    };
    synthesize(config, arguments.config, arguments.options, arguments.output, files);
  }
  if (common.json) {
    set_reply(
        {{"destination", arguments.output}, {"bytes", made_bytes}, {"sparse", arguments.options.sparse}});
  } else {
    print_data(summary_line(
        "output", fmt::format("{}: {} bytes{}", arguments.output, grouped(made_bytes),
                              arguments.options.sparse ? ", holes but for headers and norms" : "")));
  }
  return 0;
}

}  // namespace

void add_synth(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<SynthArguments>();
  CLI::App& command = add_command(app, "synth", "Makes a release-like checkpoint with random weights.",
                                  "nibblecast synth v4-tiny /tmp/tiny-v4");
  add_path(command, "CONFIG", arguments->config, "",
           fmt::format("{} or the path of a config.json", fmt::join(preset_names(), ", ")))
      ->required();
  add_path(command, "OUT", arguments->output, "", "new or empty folder")->required();
  command
      .add_option_function<std::string>(
          "--layers",
          [arguments](const std::string& text) { arguments->options.layers = parse_layers(text); },
          "only layers A to B, renumbered from 0; no draft layer")
      ->option_text("A..B");
  const auto experts = [arguments](const std::string& text) {
    arguments->options.experts = parse_positive(text);
    if (!arguments->options.experts) {
      throw CLI::ValidationError("--experts", fmt::format("'{}' is not a positive integer", text));
    }
  };
  command.add_option_function<std::string>("--experts", experts, "routed experts a layer")->option_text("E");
  command.add_flag("--fp8-experts", arguments->options.fp8_experts,
                   "as V4's Base releases: FP8 experts, F32 scales");
  add_count(command, "--seed", arguments->options.seed, 0, "of the random weights; default 0");
  command.add_flag("--sparse", arguments->options.sparse,
                   "headers, norms and holes: all of v4-pro in 30 MB, to plan on");
  add_threads_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
