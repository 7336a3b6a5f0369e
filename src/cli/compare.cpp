#include "pipeline/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/reply.h"
#include "cli/source.h"
#include "cli/summary.h"
#include "cli/text.h"

namespace nibblecast {
namespace {

constexpr size_t kNamesShown = 6;                 // of what only one has
constexpr size_t kModulesShown = 10;              // that are shown, the worst
constexpr uint64_t kLeastMemoryBytes = 64 << 20;  // the program, and values of both as FP32

struct CompareArguments {
  std::string a, b;
};

Json json_of(const CompareArguments& arguments, const CompareReport& report) {
  Json modules = Json::array(), kinds = Json::array();
  for (const ModuleDifference& module : report.modules) {
    modules.push_back({{"name", module.name},
                       {"snr_db", number_json(module.snr_db)},
                       {"max_abs", number_json(module.max_abs)},
                       {"max_rel", number_json(module.max_rel)},
                       {"format_a", module.format_a},
                       {"format_b", module.format_b}});
  }
  for (const KindDifference& kind : report.kinds) {
    kinds.push_back({{"kind", kind.kind},
                     {"format_a", kind.format_a},
                     {"format_b", kind.format_b},
                     {"equal_bytes", kind.equal_bytes},
                     {"equal_values", kind.equal_values},
                     {"different", kind.different},
                     {"snr_db", number_json(kind.errors.snr_db())},
                     {"least_snr_db", number_json(kind.least_snr_db)},
                     {"max_abs", number_json(kind.errors.max_abs)},
                     {"max_rel", number_json(kind.errors.max_rel)}});
  }
  return {{"a", arguments.a},
          {"b", arguments.b},
          {"equal_bytes", report.equal_bytes},
          {"equal_values", report.equal_values},
          {"different", report.different},
          {"only_in_a", report.only_in_a.size()},
          {"only_in_b", report.only_in_b.size()},
          {"names_only_in_a", report.only_in_a},
          {"names_only_in_b", report.only_in_b},
          {"kinds", std::move(kinds)},
          {"modules", std::move(modules)},
          {"bytes", {{"read", report.read_bytes}}},
          {"peak_memory_bytes", peak_resident_bytes()}};
}

std::string only_line(std::string_view label, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string text = grouped(names.size()) + ":";
  for (size_t index = 0; index < std::min(kNamesShown, names.size()); ++index)
    text += (index == 0 ? " " : ", ") + names[index];
  if (names.size() > kNamesShown) text += fmt::format(" and {} more", grouped(names.size() - kNamesShown));
  return summary_line(label, text);
}

std::string formats_text(const std::string& a, const std::string& b) { return a == b ? a : a + " -> " + b; }

std::string errors_text(double snr_db, double max_abs, double max_rel) {
  if (std::isnan(max_abs) && !std::isnan(snr_db)) return "other bytes";
  if (std::isnan(snr_db)) return "values that are no numbers";
  return fmt::format("SNR {:.2f} dB, error at most {:.3g}, {:.3g} of the value", snr_db, max_abs, max_rel);
}

std::string kind_text(const KindDifference& kind) {
  std::string text = fmt::format("{}: {}", kind.kind, formats_text(kind.format_a, kind.format_b));
  if (kind.equal_bytes > 0) text += fmt::format(", {} of equal bytes", grouped(kind.equal_bytes));
  if (kind.equal_values > 0) text += fmt::format(", {} of equal values", grouped(kind.equal_values));
  if (kind.different == 0) return text;
  text += fmt::format(", {} different", grouped(kind.different));
  if (!std::isfinite(kind.errors.snr_db())) return text;
  return text +
         fmt::format(" (SNR {:.2f} dB in all, {:.2f} at least)", kind.errors.snr_db(), kind.least_snr_db);
}

// Of activations: NVFP4 has them where its source has none.
bool is_no_weight(const std::string& name) {
  return name.ends_with(".input_scale") || name.ends_with(".input_global_scale") ||
         name.ends_with(".k_scale") || name.ends_with(".v_scale");
}

// Of two that do not have the same modules nothing is said but of what both have.
std::string result_text(const CompareReport& report) {
  const std::string text = report.different > 0
                               ? count_text(report.different, "module") + " with other values"
                           : report.equal_values > 0 ? "equal values"
                                                     : "equal bytes";
  if (std::ranges::all_of(report.only_in_a, is_no_weight) &&
      std::ranges::all_of(report.only_in_b, is_no_weight))
    return text;
  return fmt::format("not the same modules: {} only in A, {} only in B; of those that both have: {}",
                     grouped(report.only_in_a.size()), grouped(report.only_in_b.size()), text);
}

std::string text_of(const CompareReport& report) {
  std::string text = summary_line("result", result_text(report));
  text += summary_line("compared", fmt::format("{} of equal bytes, {} of equal values, {} different",
                                               count_text(report.equal_bytes, "module"),
                                               grouped(report.equal_values), grouped(report.different)));
  text += only_line("only in A", report.only_in_a) + only_line("only in B", report.only_in_b);
  const char* label = "kinds";
  for (const KindDifference& kind : report.kinds) {
    if (kind.equal_values > 0 || kind.different > 0)
      text += summary_line(std::exchange(label, ""), kind_text(kind));
  }
  label = "worst";
  for (size_t index = 0; index < std::min(kModulesShown, report.modules.size()); ++index) {
    const ModuleDifference& module = report.modules[index];
    if (module.equal_values) break;
    text +=
        summary_line(std::exchange(label, ""),
                     fmt::format("{}: {}, {}", module.name, formats_text(module.format_a, module.format_b),
                                 errors_text(module.snr_db, module.max_abs, module.max_rel)));
  }
  return text;
}

int run(const CompareArguments& arguments, const CommonOptions& common) {
  ProgressPrinter printer(common.quiet);
  printer.say("reading the headers");
  require_memory(common, kLeastMemoryBytes);
  const Checkpoint a = open_source(arguments.a, false), b = open_source(arguments.b, false);
  const InterruptWatch watch("");
  printer.begin();
  CompareOptions options;
  options.memory_bytes = std::min(options.memory_bytes, common.memory_limit() / 2);
  options.progress = [&](uint64_t done, uint64_t bytes) {
    watch.check();
    printer.update("comparing", done, bytes);
  };
  const CompareReport report = compare(a, b, options);
  printer.end();
  if (common.json)
    set_reply(json_of(arguments, report));
  else
    print_data(text_of(report));
  return 0;
}

}  // namespace

void add_compare(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<CompareArguments>();
  CLI::App& command =
      add_command(app, "compare", "Compares the weights of two checkpoints, whatever their formats.",
                  "nibblecast compare V4-Flash V4-Flash-NVFP4");
  add_path(command, "A", arguments->a, "", "checkpoint folder: the reference")->required();
  add_path(command, "B", arguments->b, "", "checkpoint folder: what is held against it")->required();
  add_keep_source(command);
  add_threads_options(command, common);
  add_memory_option(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
