#include "cli/job_options.h"

#include <cstdlib>
#include <memory>

#include "base/error.h"
#include "cli/job_run.h"

namespace nibblecast {

JobMeans means_of(const CommonOptions& common, const ChosenDevice& device, const Plan& plan,
                  FileSystem& files) {
  JobMeans means{.memory_bytes = common.memory_limit(),
                 .threads = common.threads,
                 .processors = default_threads(),
                 .device = device.forward,
                 .warnings = device.warnings};
  if (std::string warning = common.memory_warning(); !warning.empty())
    means.warnings.push_back(std::move(warning));
  means.describe = [&common, &plan, &files](JobDescription& job) {
    describe_command(common, plan, files, job);
  };
  return means;
}

void add_work_options(CLI::App& app, JobOptions& options) {
  add_path(app, "--work-dir", options.work_folder, "DIR", "where journal and state go; default: in DST");
  app.add_flag("--strict", options.strict, "what would be a warning is a refusal");
  app.add_flag("--allow-nonfinite", options.allow_nonfinite, "copy NaN and infinity as they are");
}

void add_base_model(CLI::App& app, std::string& base_model) {
  add_text(app, "--base-model", base_model, "ID", "SRC's name on the Hub, for the model card");
}

void require_hub_id(const std::string& base_model) {
  if (base_model.empty()) return;
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/";
  const size_t slash = base_model.find('/');
  const bool is_id = slash != std::string::npos && slash > 0 && slash + 1 < base_model.size() &&
                     slash == base_model.rfind('/') &&
                     base_model.find_first_not_of(kLetters) == std::string::npos;
  if (is_id) return;
  throw Error(ErrorKind::kUsage, {}, "--base-model: '" + base_model + "' is no name on the Hub",
              {.expected = "OWNER/NAME, such as deepseek-ai/DeepSeek-V4-Pro"});
}

void add_job_options(CLI::App& app, JobOptions& options) {
  add_work_options(app, options);
  add_count(app, "--checkpoint-every", options.checkpoint_every, 1,
            "layers between two saved states; default: costs 3 %");
  app.add_option("--max-perplexity", options.max_perplexity, "fail (exit 6) if the rows' is higher or NaN")
      ->option_text("X")
      ->check([](const std::string& text) {
        return std::strtod(text.c_str(), nullptr) > 0 ? "" : "must be a number above 0";  // NaN is not
      });
}

}  // namespace nibblecast
