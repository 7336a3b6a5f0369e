// cli/summary.h - what a run found out, for people.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "pipeline/run.h"
#include "pipeline/verify_checksums.h"

namespace nibblecast {

// "label        text\n": the form of every summary line.
std::string summary_line(std::string_view label, std::string_view text);
std::string blocks_text(const RunRecord& record);  // lossless of all, and those outside by tensor
std::string coverage_text(const RunRecord& record, const Plan& plan);  // experts without tokens, by layer
std::string perplexity_text(const RunRecord& record);                  // empty: nothing is known of it
// The device's use and the seconds of each layer, for documents.
Json device_use_json(const RunRecord& record);
std::string device_text(const RunRecord& record);  // empty without one
// `state`: of the output, "finished" or "unfinished".
void print_checksums(const ChecksumReport& report, const std::string& state, bool json);
// Null for what is no finite number.
Json number_json(std::optional<double> value);
uint64_t peak_resident_bytes();  // of this process, so far

}  // namespace nibblecast
