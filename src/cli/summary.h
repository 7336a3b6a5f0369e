// cli/summary.h - what a run found out, for people.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "pipeline/run.h"
#include "pipeline/verify_checksums.h"
#include "plan/plan.h"

namespace nibblecast {

// "label        text\n": the form of every summary line.
std::string summary_line(std::string_view label, std::string_view text);
std::string output_text(const Plan& plan, const std::string& destination);
std::string blocks_text(const RunRecord& record);  // lossless of all, and those outside by tensor
std::string coverage_text(const RunRecord& record, uint64_t experts);  // experts without tokens, by layer
std::string perplexity_text(const RunRecord& record);                  // empty: nothing is known of it
// The device's use and the seconds of each layer, for documents; null without a device.
Json device_use_json(const RunRecord& record);
std::string speed_text(const RunRecord& record);
// `state`: of the output, "finished" or "unfinished".
void print_checksums(const ChecksumReport& report, const std::string& state, bool json);
// The same as JSON: run_document() (pipeline/output.h) without what makes nibblecast.json a full record.
Json summary_document(const Checkpoint& source, const Plan& plan, const Activations& activations,
                      const RunRecord& record, const Job& job, const std::string& destination);
uint64_t peak_resident_bytes();  // of this process, so far

}  // namespace nibblecast
