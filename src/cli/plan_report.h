// cli/plan_report.h - what `plan` found, as a value, as text and as JSON.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "plan/cost.h"
#include "plan/engines.h"
#include "plan/plan.h"

namespace nibblecast {

struct PlanReport {
  const Checkpoint* source = nullptr;
  const Plan* plan = nullptr;
  Workload workload;
  MemoryCost memory;
  uint64_t memory_limit = 0;
  std::filesystem::path disk_folder;  // where the output is, or would be, put
  uint64_t disk_need = 0, disk_free = 0;
  std::optional<DiskRates> disk;
  double flops_per_second = 0;    // 0: no forward pass
  std::optional<double> seconds;  // nothing where the disk could not be measured
  std::vector<Breach> breaches;   // of all engines
  std::vector<Finding> findings;
};

std::string plan_text(const PlanReport& report);
Json plan_json(const PlanReport& report);

}  // namespace nibblecast
