#include "pipeline/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/shell.h"
#include "cli/activations.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/reply.h"
#include "cli/run_summary.h"
#include "cli/source.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/verify_checksums.h"
#include "pipeline/verify_folder.h"
#include "pipeline/verify_source.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

struct VerifyArguments {
  std::string source, destination;
  QuantizeOptions options;         // of which only the engines count
  CLI::Option* engines = nullptr;  // --engine
  bool checksums = false, published = false;
};

Json json_of(const VerifyReport& report) {
  return {{"problems", report.problems},
          {"notes", report.notes},
          {"tensors", report.tensors},
          {"blocks", report.blocks},
          {"identical_blocks", report.identical_blocks},
          {"requantized_blocks", report.requantized_blocks},
          {"kept_bytes", report.kept_bytes},
          {"made_bytes", report.made_bytes}};
}

std::string text_of(const VerifyReport& report) {
  std::string text;
  for (const std::string& problem : report.problems) text += summary_line("problem", problem);
  for (const std::string& note : report.notes) text += summary_line("note", note);
  if (report.blocks > 0)
    text += summary_line("blocks", fmt::format("{} of {} identical to the source's, {} requantized",
                                               grouped(report.identical_blocks), grouped(report.blocks),
                                               grouped(report.requantized_blocks)));
  if (report.made_bytes > 0)
    text += summary_line("made", fmt::format("{} bytes recomputed", grouped(report.made_bytes)));
  text += summary_line("kept", fmt::format("{} bytes compared", grouped(report.kept_bytes)));
  return text + summary_line("result", report.ok()
                                           ? fmt::format("right: all {} tensors", grouped(report.tensors))
                                           : "WRONG: " + count_text(report.problems.size(), "problem"));
}

// `verify --checksums DST`, or with a source that is then not looked at.
int run_checksums(const VerifyArguments& arguments, const CommonOptions& common) {
  const OpenedFolder output =
      open_folder(arguments.destination.empty() ? arguments.source : arguments.destination);
  ChecksumReport report;
  {
    const InterruptWatch watch("");
    ProgressPrinter printer(common.quiet);
    VerifyOptions options{.engines = {}, .progress = progress_to(printer, watch)};
    options.memory_bytes = std::min(options.memory_bytes, common.memory_limit() / 2);
    report = verify_checksums(output.files, output.path, options);
  }
  print_checksums(report, "finished", common.json);
  return report.ok() ? 0 : static_cast<int>(ErrorKind::kVerifyFailed);
}

void require_finished(const OpenedFolder& output) {
  if (!is_unfinished_output(output.path, output.files)) return;
  throw Error(ErrorKind::kVerifyFailed, {.file = output.path.string()}, "is unfinished",
              {.hint = "nibblecast status " + shell_word(output.path.string())});
}

bool holds_nvfp4(const Checkpoint& checkpoint) {
  return std::ranges::any_of(checkpoint.tensors(), [](const Tensor& tensor) {
    return tensor.name.ends_with(".weight_scale_2") || tensor.name.ends_with(".weight_global_scale");
  });
}

// Where no plan fits SRC because it is what quantize makes, the two were likely named in the wrong order.
VerifyReport verify_as_meant(const Checkpoint& source, const OpenedFolder& output,
                             const VerifyOptions& options) {
  try {
    return verify(source, output.path, output.files, options);
  } catch (const Error& error) {
    const bool unplanned = error.kind() == ErrorKind::kBadInput || error.kind() == ErrorKind::kUnsupported;
    if (!unplanned || !holds_nvfp4(source)) throw;
    throw Error(error.kind(), {.file = source.folder().string()}, "is in NVFP4 already, and given as SRC",
                {.hint = "are the two swapped? nibblecast verify SRC DST"});
  }
}

Json json_of(const SourceReport& report) {
  return {{"ok", report.ok()},
          {"problems", report.problems},
          {"unchecked", report.unchecked},
          {"files", report.files},
          {"bytes", report.bytes}};
}

std::string text_of(const SourceReport& report) {
  constexpr size_t kMostNames = 20;
  std::string text;
  for (const std::string& problem : report.problems) text += summary_line("problem", problem);
  for (size_t index = 0; index < std::min(kMostNames, report.unchecked.size()); ++index)
    text += summary_line(index == 0 ? "unchecked" : "", report.unchecked[index]);
  if (report.unchecked.size() > kMostNames)
    text += summary_line("", fmt::format("and {} more", grouped(report.unchecked.size() - kMostNames)));
  const std::string compared =
      fmt::format("{} files, {} bytes", grouped(report.files), grouped(report.bytes));
  if (!report.problems.empty())
    return text +
           summary_line("source", fmt::format("DAMAGED: {}, in {} that have a checksum",
                                              count_text(report.problems.size(), "problem"), compared));
  if (report.files == 0)
    return text + summary_line("source",
                               "nothing could be checked: it is no snapshot in the Hub's cache, and "
                               "`hf download` noted no checksums beside it");
  return text + summary_line("source", "as the Hub has it: " + compared);
}

// SRC's files against the Hub's own checksums.
SourceReport check_published(const VerifyArguments& arguments, const CommonOptions& common) {
  if (!is_address(arguments.source)) require_checkpoint_folder(arguments.source, false);
  const OpenedFolder source = open_folder(arguments.source);
  const InterruptWatch watch("");
  ProgressPrinter printer(common.quiet);
  VerifyOptions options{.engines = {}, .progress = progress_to(printer, watch)};
  options.memory_bytes = std::min(options.memory_bytes, common.memory_limit() / 2);
  return verify_source(source.path, source.files, options);
}

int run_published(const VerifyArguments& arguments, const CommonOptions& common) {
  const SourceReport report = check_published(arguments, common);
  if (common.json)
    set_reply(json_of(report));
  else
    print_data(text_of(report));
  return report.ok() ? 0 : static_cast<int>(ErrorKind::kVerifyFailed);
}

int run(const VerifyArguments& arguments, const CommonOptions& common) {
  constexpr uint64_t kLeastMemoryBytes = 64 << 20;  // the program, the headers, a few buffers
  require_memory(common, kLeastMemoryBytes);
  if (const std::string warning = common.memory_warning(); !warning.empty()) print_warning(warning);
  if (arguments.checksums) return run_checksums(arguments, common);
  if (arguments.published && arguments.destination.empty()) return run_published(arguments, common);
  if (arguments.destination.empty()) {
    throw Error(ErrorKind::kUsage, {}, "DST is missing",
                {.hint = "give SRC and DST, or --checksums and an output"});
  }
  std::optional<SourceReport> published;
  if (arguments.published) published = check_published(arguments, common);
  const Checkpoint source = open_source(arguments.source);
  const OpenedFolder output = open_folder(arguments.destination);
  require_finished(output);
  VerifyReport report;
  {
    const InterruptWatch watch("");
    ProgressPrinter printer(common.quiet);
    VerifyOptions options{.engines = {}, .progress = progress_to(printer, watch)};
    if (arguments.engines->count() > 0) options.engines = arguments.options.engines;
    options.memory_bytes = std::min(options.memory_bytes, common.memory_limit() / 2);
    report = verify_as_meant(source, output, options);
  }
  Json document = json_of(report);
  const bool ok = report.ok() && (!published || published->ok());
  document["source"] = {{"path", arguments.source}};
  document["destination"] = arguments.destination;
  if (published) document["published"] = json_of(*published);
  if (common.json)
    set_reply(std::move(document));
  else
    print_data((published ? text_of(*published) : "") + text_of(report));
  return ok ? 0 : static_cast<int>(ErrorKind::kVerifyFailed);
}

}  // namespace

void add_verify(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<VerifyArguments>();
  CLI::App& command = add_command(app, "verify", "Proves DST against SRC: reads every byte of both.",
                                  "nibblecast verify DeepSeek-V4-Flash DeepSeek-V4-Flash-NVFP4");
  add_path(command, "SRC", arguments->source, "", "the source checkpoint: folder or hf://OWNER/NAME")
      ->required();
  add_path(command, "DST", arguments->destination, "", "what was made of it: folder or hf://OWNER/NAME");
  CLI::Option* const own = command.add_flag("--checksums", arguments->checksums,
                                            "one folder: against its own record, without SRC");
  command
      .add_flag("--source", arguments->published,
                "SRC's files against the Hub's checksums; DST may be left out")
      ->excludes(own);
  add_keep_source(command);
  add_engines(command, arguments->options);
  arguments->engines = command.get_option("--engine");
  arguments->engines->description("vllm|sglang|trtllm|none; repeatable (those that DST records)");
  add_threads_options(command, common);
  add_memory_option(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
