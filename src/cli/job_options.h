// cli/job_options.h - the options of commands that run a job, and what they let it use.
#pragma once

#include <string>

#include "cli/common_options.h"
#include "cli/device.h"
#include "pipeline/preflight.h"

namespace nibblecast {

// --work-dir, --checkpoint-every, --strict, --allow-nonfinite, --max-perplexity.
void add_job_options(CLI::App& app, JobOptions& options);
void add_work_options(CLI::App& app, JobOptions& options);  // of jobs without a forward pass
// --base-model, of what gets a model card.
void add_base_model(CLI::App& app, std::string& base_model);
// kUsage unless it is empty or an OWNER/NAME.
void require_hub_id(const std::string& base_model);

// What common options and the chosen device grant. All arguments outlive the result.
JobMeans means_of(const CommonOptions& common, const ChosenDevice& device, const Plan& plan,
                  FileSystem& files);

}  // namespace nibblecast
