// cli/require.h - `--require lossless,covered,...`: what a run must have reached, for scripts.
//
// What is known before a run is refused then (exit code 5); the rest is looked at when the output is
// finished, which stays, with exit code 6 and a line for each condition that does not hold.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "cli/common_options.h"
#include "pipeline/run.h"
#include "plan/plan.h"

namespace nibblecast {

enum class Condition {
  kLossless,  // every NVFP4 weight has its source's values: cast, with no block outside the window
  kWindow,    // no block that was cast lay outside the window
  kCovered,   // every routed expert of every layer saw a token
  kBounded,   // every measured amax lies between what the weights prove it to be at least and at most
  kRows,      // the calibration rows are all that was asked for: nothing about them is worth a warning
  kModel,     // the amax file was measured on this very model
};
using Conditions = std::set<Condition>;

inline const Conditions kAllConditions = {Condition::kLossless, Condition::kWindow, Condition::kCovered,
                                          Condition::kBounded,  Condition::kRows,   Condition::kModel};
inline const Conditions kCalibrationConditions = {Condition::kCovered, Condition::kBounded, Condition::kRows};

// --require NAME,... (repeatable), of those that the command can answer.
void add_require(CLI::App& app, Conditions& conditions, const Conditions& allowed);

// `conditions`, and with --strict those whose breach would be a warning: kWindow; kCovered and kBounded where
// anything was measured.
Conditions with_strict(Conditions conditions, bool strict, const Plan& plan);

// Adds a refusal for each that is known not to hold before a run.
void refuse_unmet(const Conditions& conditions, const Checkpoint& source, const Plan& plan,
                  const Activations& activations, std::vector<Finding>& findings);

// Those that do not hold of a finished run, one line each: "'covered' does not hold: ...".
std::vector<std::string> unmet(const Conditions& conditions, const Plan& plan, const RunRecord& record);

// What a finished output's own record says of its run, as far as the conditions need it. kBadInput where it
// does not say it.
RunRecord recorded_run(FileSystem& files, const std::filesystem::path& destination);

// Prints the lines as errors. The exit code: 0, or kVerifyFailed where there are any.
int report_unmet(const std::vector<std::string>& lines);

}  // namespace nibblecast
