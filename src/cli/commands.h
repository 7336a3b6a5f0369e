// cli/commands.h - each command declares its arguments and says what to do with them.
#pragma once

#include "cli/common_options.h"

namespace nibblecast {

// When parsed, `action` runs the command; `common` must live until then.
void add_plan(CLI::App& app, CommonOptions& common, Action& action);
void add_quantize(CLI::App& app, CommonOptions& common, Action& action);
void add_dequantize(CLI::App& app, CommonOptions& common, Action& action);
void add_convert(CLI::App& app, CommonOptions& common, Action& action);
void add_calibrate(CLI::App& app, CommonOptions& common, Action& action);
void add_verify(CLI::App& app, CommonOptions& common, Action& action);
void add_inspect(CLI::App& app, CommonOptions& common, Action& action);
void add_report(CLI::App& app, CommonOptions& common, Action& action);
void add_resume(CLI::App& app, CommonOptions& common, Action& action);
void add_status(CLI::App& app, CommonOptions& common, Action& action);
void add_compare(CLI::App& app, CommonOptions& common, Action& action);
void add_evaluate(CLI::App& app, CommonOptions& common, Action& action);
void add_doctor(CLI::App& app, CommonOptions& common, Action& action);
void add_synth(CLI::App& app, CommonOptions& common, Action& action);
// Hidden: what packages install is printed, of `app` as it is when the command is parsed.
void add_generate(CLI::App& app, CommonOptions& common, Action& action);

}  // namespace nibblecast
