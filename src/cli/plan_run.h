// cli/plan_run.h - the whole job of a command that makes one checkpoint of another without activations.
#pragma once

#include <string>

#include "checkpoint/checkpoint.h"
#include "cli/common_options.h"
#include "cli/job_options.h"
#include "plan/plan.h"

namespace nibblecast {

struct PlanRunArguments {
  std::string source, destination, base_model;
  JobOptions job;
};

// SRC, DST and every option of such a command but its own.
void add_plan_run_options(CLI::App& app, PlanRunArguments& arguments, CommonOptions& common);

// Preflight, run, summary; the exit code.
int run_plan(const Checkpoint& source, const Plan& plan, const PlanRunArguments& arguments,
             const CommonOptions& common);

}  // namespace nibblecast
