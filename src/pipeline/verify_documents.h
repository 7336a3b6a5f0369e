// pipeline/verify_documents.h - the JSON documents of an output against the plan, the tensors and the source.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "pipeline/problem_list.h"
#include "pipeline/verify.h"
#include "pipeline/verify_folder.h"
#include "plan/plan.h"

namespace nibblecast {

// What nibblecast.json says was chosen.
struct RecordedOptions {
  std::string command = "quantize";
  std::string made = {};    // of the other commands: their options in words
  QuantizeOptions options;  // of quantize, its engines too; defaults where there is no nibblecast.json
  std::optional<InputScalePolicy> input_scale;
  std::optional<NegativeZero> negative_zero;
};
// A value that no version writes is a problem.
RecordedOptions recorded_options(const Json& run_document, ProblemList& problems);

// config.json, hf_quant_config.json and the index's metadata as `plan` would write them, `quantized_layers`
// true of the tensors; the producer is a note.
void check_documents(const OutputFolder& output, const Plan& plan, ProblemList& problems,
                     std::vector<std::string>& notes);

// The files beside the weights: those that nibblecast.json records are there as they were written, and of
// what engines load with a model (tokenizer, chat template, generation config) each that the source has; a
// note where one that is not recorded is not the source's. Model cards may be missing, or others.
void check_side_files(const OutputFolder& output, const Checkpoint& source, FileSystem& files,
                      ProblemList& problems, std::vector<std::string>& notes);

// nibblecast.json against the source and, at the end, against the blocks counted.
void check_run_document(const OutputFolder& output, const Checkpoint& source, const VerifyReport& report,
                        ProblemList& problems);

}  // namespace nibblecast
