#include <memory>

#include "base/build_info.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/doctor_checks.h"
#include "cli/reply.h"
#include "cli/summary.h"

namespace nibblecast {
namespace {

struct DoctorArguments {
  std::string folder = ".", source;
};

std::vector<Check> all_checks(const DoctorArguments& arguments) {
  std::vector<Check> checks = {check_processor(default_threads()), check_products(), check_gpu(),
                               check_memory(), check_disk(arguments.folder)};
  if (!arguments.source.empty()) checks.push_back(check_line(arguments.source));
  checks.push_back(check_certificates());
  for (Check& check : check_build()) checks.push_back(std::move(check));
  return checks;
}

Json check_json(const Check& check) {
  Json json = check.figures;
  json["name"] = check.name;
  json["found"] = check.found;
  json["remedy"] = check.remedy.empty() ? Json() : Json(check.remedy);
  return json;
}

// Whatever is found, it is an answer: exit code 0.
int run(const DoctorArguments& arguments, bool json) {
  const std::vector<Check> checks = all_checks(arguments);
  Json list = Json::array();
  std::string text = summary_line("version", build_version());
  for (const Check& check : checks) {
    list.push_back(check_json(check));
    text += summary_line(check.name, check.found);
    if (!check.remedy.empty()) text += summary_line("", "remedy: " + check.remedy);
  }
  set_reply({{"version", build_version()}, {"checks", std::move(list)}});
  if (!json) print_data(text);
  return 0;
}

}  // namespace

void add_doctor(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<DoctorArguments>();
  CLI::App& command = add_command(app, "doctor", "Says what this machine is good for, and what would help.",
                                  "nibblecast doctor /data");
  add_path(command, "FOLDER", arguments->folder, "",
           "on the disk whose rate is measured; default: the current folder");
  add_path(command, "--source", arguments->source, "SRC", "measure the line to this model on a server too");
  add_common_options(command, common);
  command.callback([arguments, &common, &action] {
    action = [arguments, &common] { return run(*arguments, common.json); };
  });
}

}  // namespace nibblecast
