#include "cli/common_options.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/size_text.h"
#include "cli/paths.h"
#include "cli/text.h"
#include "plan/cost.h"

namespace nibblecast {
namespace {

constexpr uint64_t kMostThreads = 4096;

template <class T>
using Choices = std::vector<std::pair<std::string, T>>;

template <class T>
T chosen(const std::string& option, const std::string& text, const Choices<T>& choices) {
  std::string names;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    names += (names.empty() ? "" : &choices.back().first == &name ? " or " : ", ") + name;
  }
  throw CLI::ValidationError(option, fmt::format("unknown value '{}' (expected {})", text, names));
}

template <class T>
CLI::Option* add_choice(CLI::App& app, const std::string& option, T& target, const Choices<T>& choices,
                        const std::string& description) {
  std::string names;
  for (const auto& [name, value] : choices) names += (names.empty() ? "" : "|") + name;
  return app
      .add_option_function<std::string>(
          option,
          [&target, option, choices](const std::string& text) { target = chosen(option, text, choices); },
          names + ": " + description)
      ->option_text("WORD");
}

// `parse` knows the words that `names` lists.
template <class T>
void add_parsed(CLI::App& app, const std::string& option, std::optional<T>& target,
                std::optional<T> (*parse)(std::string_view), const std::string& names,
                const std::string& description) {
  app.add_option_function<std::string>(
         option,
         [&target, parse, option, names](const std::string& text) {
           target = parse(text);
           if (!target)
             throw CLI::ValidationError(option, fmt::format("unknown value '{}' (expected {})", text, names));
         },
         names + ": " + description)
      ->option_text("WORD");
}

// `read` takes what was given, which is more than blanks and commas.
CLI::Option* add_word(CLI::App& app, const std::string& name, const std::string& value,
                      const std::string& description, const std::function<void(const std::string&)>& read) {
  const auto parse = [name, read](const std::string& text) {
    if (text.find_first_not_of(" ,\t\n") == std::string::npos)
      throw CLI::ValidationError(name, "is empty (is a variable of the shell not set?)");
    read(text);
  };
  return app.add_option_function<std::string>(name, parse, description)->option_text(value);
}

void add_size(CLI::App& app, const std::string& option, std::optional<uint64_t>& target,
              const std::string& description) {
  const auto parse = [&target, option](const std::string& text) {
    target = parse_size(text);
    if (target) return;
    throw CLI::ValidationError(option, fmt::format("'{}' is not a size (expected 900M, 4G, 1GiB...)", text));
  };
  app.add_option_function<std::string>(option, parse, description)->option_text("SIZE");
}

}  // namespace

uint64_t CommonOptions::memory_limit() const { return memory ? *memory : available_memory(); }

void require_memory(const CommonOptions& options, uint64_t least_bytes) {
  const uint64_t limit = options.memory_limit();
  if (limit >= least_bytes) return;
  throw Error(ErrorKind::kRefused, {},
              fmt::format("needs {} of memory and may use {}", size_text(least_bytes), size_text(limit)),
              {.hint = "raise --memory"});
}

std::string CommonOptions::memory_warning() const {
  const uint64_t available = available_memory();
  if (!memory || *memory <= available) return {};
  return fmt::format("--memory {} is more than the {} that this process can have here: it may be killed",
                     size_text(*memory), size_text(available));
}

CLI::App& add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::string& example) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer(example);
  command->set_help_flag("-h,--help", "this text");
  return *command;
}

CLI::Option* add_text(CLI::App& app, const std::string& name, std::string& target, const std::string& value,
                      const std::string& description) {
  return add_word(app, name, value, description, [&target](const std::string& text) { target = text; });
}

CLI::Option* add_path(CLI::App& app, const std::string& name, std::string& target, const std::string& value,
                      const std::string& description) {
  return add_word(app, name, value, description,
                  [&target](const std::string& text) { target = normal_path(text); });
}

CLI::Option* add_paths(CLI::App& app, const std::string& name, std::vector<std::string>& targets,
                       const std::string& description) {
  const auto read = [&targets, name](const std::vector<std::string>& paths) {
    targets.clear();
    for (const std::string& path : paths) {
      if (path.find_first_not_of(" ,\t\n") == std::string::npos)
        throw CLI::ValidationError(name, "is empty (is a variable of the shell not set?)");
      targets.push_back(normal_path(path));
    }
  };
  return app.add_option_function<std::vector<std::string>>(name, read, description);
}

CLI::Option* add_count(CLI::App& app, const std::string& name, uint64_t& target, uint64_t least,
                       const std::string& description) {
  const auto parse = [&target, name, least](const std::string& text) {
    const std::optional<uint64_t> number = least == 0 ? parse_number(text) : parse_positive(text);
    if (!number) {
      throw CLI::ValidationError(
          name, fmt::format("'{}' is not {} integer", text, least == 0 ? "an" : "a positive"));
    }
    target = *number;
  };
  return app.add_option_function<std::string>(name, parse, description)->option_text("N");
}

void add_common_options(CLI::App& app, CommonOptions& options) {
  app.add_flag("--json", options.json, "one JSON object on stdout instead of text");
  app.add_flag("--quiet", options.quiet, "no progress on stderr");
}

void add_threads_options(CLI::App& app, CommonOptions& options) {
  const auto threads = [&options](const std::string& text) {
    const std::optional<uint64_t> number = parse_positive(text);
    if (!number || *number > kMostThreads) {
      throw CLI::ValidationError("--threads",
                                 fmt::format("'{}' is not an integer from 1 to {}", text, kMostThreads));
    }
    options.threads = *number;
  };
  app.add_option_function<std::string>("--threads", threads, "default: all processors it may use")
      ->option_text("N");
  add_text(app, "--cpu-isa", options.cpu_isa, "ISA", "auto|scalar|avx2|avx512 (default auto)");
}

void add_memory_option(CLI::App& app, CommonOptions& options) {
  add_size(app, "--memory", options.memory, "bound, as 900M or 4G; default: what is free");
}

void add_device_options(CLI::App& app, CommonOptions& options) {
  const auto device = [&options](const std::string& text) {
    constexpr std::string_view kNumbered = "cuda:";
    options.device = text;
    if (text == "auto" || text == "cpu" || text == "cuda") return;
    if (text.starts_with(kNumbered)) options.device_ordinal = parse_number(text.substr(kNumbered.size()));
    if (options.device_ordinal) return;
    throw CLI::ValidationError("--device",
                               fmt::format("unknown value '{}' (expected cpu, cuda or cuda:N)", text));
  };
  app.add_option_function<std::string>("--device", device, "cpu|cuda|cuda:N; default: the first GPU there is")
      ->option_text("DEVICE");
  add_size(app, "--device-memory", options.device_memory, "bound on the GPU's; default: what is free");
  app.add_flag("--device-profile", options.device_profile,
               "time the GPU's parts one by one (a little slower)");
}

void add_texts_options(CLI::App& app, ActivationOptions& options, const std::string& description) {
  const std::string& texts = options.option;
  add_text(app, texts, options.calib, "FILE", description);
  add_count(app, texts + "-size", options.calib_size, 1,
            fmt::format("texts (docs) or rows (packed); default {}", options.default_size))
      ->needs(texts);
  add_count(app, texts + "-seq", options.rows.length, 1,
            fmt::format("most tokens of a row; default {}", options.rows.length))
      ->needs(texts);
}

void add_rows_options(CLI::App& app, ActivationOptions& options) {
  const std::string& texts = options.option;
  add_texts_options(app, options, "texts (JSON, CSV, plain, -) or data sets: A:64,B:64");
  add_text(app, texts + "-key", options.calib_key, "KEY",
           "key or column of the texts; default: the usual ones")
      ->needs(texts);
  add_choice<RowsPolicy>(app, texts + "-rows", options.rows.policy,
                         {{"docs", RowsPolicy::kDocs}, {"packed", RowsPolicy::kPacked}},
                         fmt::format("a row a text, or joined and cut ({})",
                                     options.rows.policy == RowsPolicy::kPacked ? "packed" : "docs"))
      ->needs(texts);
  add_choice<BosPolicy>(
      app, "--bos", options.rows.bos,
      {{"auto", BosPolicy::kAuto}, {"always", BosPolicy::kAlways}, {"never", BosPolicy::kNever}},
      "BOS before each text (auto)")
      ->needs(texts);
}

void add_compute_dtype(CLI::App& app, ComputeDtype& dtype) {
  add_choice<ComputeDtype>(app, "--compute-dtype", dtype,
                           {{"bfloat16", ComputeDtype::kBF16}, {"float32", ComputeDtype::kF32}},
                           "of the forward pass (bfloat16)");
}

void add_quantize_options(CLI::App& app, QuantizeOptions& options) {
  add_path(app, "--recipe", options.recipe, "R", "built-in name or YAML file (auto)");
  add_choice<OutputFormat>(app, "--format", options.format,
                           {{"auto", OutputFormat::kAuto},
                            {"modelopt-v4", OutputFormat::kModelOptV4},
                            {"modelopt", OutputFormat::kModelOpt},
                            {"compressed-tensors", OutputFormat::kCompressedTensors}},
                           "how the output names things (auto: the family's)");
  add_parsed<RecipeMethod>(app, "--weight-method", options.weight_method, parse_recipe_method,
                           "cast|max|mse|four_over_six|wmse", "instead of the recipe's");
  add_parsed<KvCache>(app, "--kv-cache", options.kv_cache, parse_kv_cache, "none|fp8_cast|fp8|nvfp4_cast",
                      "instead of the recipe's");
  add_compute_dtype(app, options.compute_dtype);
  const auto input_scale = [&options](const std::string& text) {
    if (parse_input_scale(text, options)) return;
    throw CLI::ValidationError(
        "--input-scale",
        fmt::format("unknown value '{}' (expected layer, expert or a number above 0, such as 1.0)", text));
  };
  app.add_option_function<std::string>("--input-scale", input_scale,
                                       "layer|expert: of what was measured; or a number (layer)")
      ->option_text("WORD");
  add_choice<W2Input>(
      app, "--w2-input", options.w2_input,
      {{"max", W2Input::kMax}, {"weighted", W2Input::kWeighted}, {"unweighted", W2Input::kUnweighted}},
      "routing weight in or not (max)");
  add_choice<NegativeZero>(app, "--negative-zero", options.negative_zero,
                           {{"keep", NegativeZero::kKeep}, {"modelopt", NegativeZero::kModelOpt}},
                           "what the cast makes of codes of -0 (keep)");
  add_engines(app, options);
}

void add_engines(CLI::App& app, QuantizeOptions& options) {
  const auto parse = [&options](const std::vector<std::string>& names) {
    Choices<std::optional<Engine>> choices;
    for (const Engine engine : kAllEngines) choices.emplace_back(engine_name(engine), engine);
    choices.emplace_back("none", std::nullopt);
    options.engines.clear();
    for (const std::string& name : names) {
      const std::optional<Engine> engine = chosen("--engine", name, choices);
      if (engine) options.engines.insert(*engine);
      if (!engine && names.size() > 1) throw CLI::ValidationError("--engine", "none stands alone");
    }
  };
  app.add_option_function<std::vector<std::string>>("--engine", parse,
                                                    "vllm|sglang|trtllm|none, repeatable (vllm and sglang)")
      ->allow_extra_args(false)
      ->option_text("ENGINE");
}

size_t default_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  double processors = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  std::ifstream membership("/proc/self/cgroup");
  std::string line;
  while (std::getline(membership, line)) {
    if (!line.starts_with("0::")) continue;  // version 2
    for (std::filesystem::path group = line.substr(3);; group = group.parent_path()) {
      std::ifstream file("/sys/fs/cgroup" + group.string() + "/cpu.max");
      double quota = 0, period = 0;
      if (file >> quota >> period && period > 0) processors = std::min(processors, std::ceil(quota / period));
      if (group == group.parent_path()) break;
    }
  }
  return static_cast<size_t>(std::max(processors, 1.0));
}

}  // namespace nibblecast
