// pipeline/recorded_evaluation.h - what an evaluation found, in the documents of the output that it judges.
#pragma once

#include <filesystem>

#include "base/file.h"
#include "base/json.h"

namespace nibblecast {

// `evaluation`: of the source and this one candidate, as `evaluate --json` prints it. Into a finished output
// of nibblecast: "evaluation" of nibblecast.json, a line of README.md, in place of an earlier one. A card
// that was edited stays as it is. Returns whether the card has the line. Each document is whole at any
// moment; the record comes last. kBadInput: a folder without a record.
bool record_evaluation(FileSystem& files, const std::filesystem::path& output, const Json& evaluation);

// "Against the source on 32,752 tokens: KL divergence ...".
std::string card_line(const Json& evaluation);

}  // namespace nibblecast
