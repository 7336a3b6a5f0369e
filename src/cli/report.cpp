#include "pipeline/report.h"

#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/reply.h"
#include "cli/summary.h"

namespace nibblecast {
namespace {

constexpr uint64_t kEvaluationLimit = 256'000'000;

struct ReportArguments {
  std::string destination, page, evaluation;
};

// What `evaluate --json` has printed.
Json read_evaluation(FileSystem& files, const std::string& path) {
  Json evaluation = parse_json(read_text(files, path, kEvaluationLimit), path);
  const Json models = at_or_null(evaluation, "models");
  if (models.is_array() && !models.empty()) return evaluation;
  throw Error(ErrorKind::kBadInput, {.file = path}, "holds no evaluation: it has no list of 'models'",
              {.hint = "give what `nibblecast evaluate --json` has printed"});
}

int run(const ReportArguments& arguments, const CommonOptions& common) {
  FileSystem& files = system_files();
  std::filesystem::path page = std::filesystem::path(arguments.destination) / kReportPageName;
  if (!arguments.page.empty()) page = arguments.page;
  if (page.extension() != ".html")
    throw Error(ErrorKind::kUsage, {}, "-o: must end in .html; found " + page.string());
  Json evaluation;
  if (!arguments.evaluation.empty()) evaluation = read_evaluation(files, arguments.evaluation);
  const Json document =
      report_document(read_report_input(files, arguments.destination, std::move(evaluation)));
  const std::filesystem::path figures = write_report(files, page, document);
  if (common.json)
    set_reply(document);
  else
    print_data(summary_line("result", document["verdict"]["text"].get<std::string>()) +
               summary_line("page", page.string()) + summary_line("figures", figures.string()));
  return 0;
}

}  // namespace

void add_report(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<ReportArguments>();
  CLI::App& command = add_command(app, "report", "Writes a page that shows what became of the model.",
                                  "nibblecast report DeepSeek-V4-Flash-NVFP4");
  add_path(command, "DST", arguments->destination, "", "a finished output of nibblecast")->required();
  add_path(command, "-o,--output", arguments->page, "FILE",
           "the page, *.html; figures go beside it (report.html in DST)");
  add_path(command, "--evaluation", arguments->evaluation, "FILE",
           "what `evaluate --json` printed; the page then shows what was lost");
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
