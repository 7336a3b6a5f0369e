// pipeline/report.h - what became of a model, for people: the figures of a finished output (report.json), and
// a page that shows them (report.html). docs/report.md, docs/formats/report.md.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "calibration/amax_file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/tensor.h"
#include "pipeline/block_scales.h"

namespace nibblecast {

inline constexpr const char* kReportPageName = "report.html";
inline constexpr const char* kReportName = "report.json";

// All that a report is made of.
struct ReportInput {
  std::string destination = {};        // the output folder's last name
  Json record = {};                    // read_run_record()
  std::vector<Tensor> source, output;  // headers; no source where the record does not hold its headers
  std::optional<AmaxFile> amax = {};   // calibration/amax.safetensors: for tokens of experts
  std::map<std::pair<uint64_t, std::string>, float> input_scales = {};  // the largest, by layer and tap
  std::map<std::string, BlockScales> block_scales = {};                 // by kind
  Json evaluation = {};  // what `evaluate --json` printed; null where there is none
};

// Of a finished output of nibblecast. `evaluation`: of a file; null: what an earlier report there, or the
// record, holds. kBadInput: a folder that is none, and files that are damaged.
ReportInput read_report_input(FileSystem& files, const std::filesystem::path& output, Json evaluation);
// Of any checkpoint that was evaluated against `source`: what headers and the evaluation tell. In place of a
// record is what is known of the evaluation: kEvaluatedOnly, its command, when it ended.
ReportInput evaluated_report_input(const Checkpoint& source, const Checkpoint& candidate, Json evaluation,
                                   const std::string& command);
inline constexpr const char* kEvaluatedOnly = "evaluate";

// What `evaluate --json` prints, as it is published: without folders and what is the process' own.
Json published_evaluation(Json evaluation);
// Of a source and one candidate: "KL divergence 0.0071 nats a token, ..."; empty of anything else.
std::string loss_text(const Json& evaluation);

// report.json. Reads no file and no clock. kBadInput: a record that does not hold what one holds.
Json report_document(const ReportInput& input);

// One page that needs nothing else. Whatever texts the document holds, they are data to it.
std::string report_page(const Json& document);

// Writes `page` (*.html) and, beside it, the document (*.json). Refuses (kRefused) to write over files that
// are no reports, and into checkpoints that nibblecast did not make. Returns the second path.
std::filesystem::path write_report(FileSystem& files, const std::filesystem::path& page,
                                   const Json& document);

}  // namespace nibblecast
