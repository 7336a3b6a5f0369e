// pipeline/output.h - what makes a folder of finished shards a checkpoint: names, side files, documents.
#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "checkpoint/checkpoint.h"
#include "pipeline/published.h"
#include "pipeline/run.h"
#include "plan/plan.h"

namespace nibblecast {

// After quantize(): renames the shards; copies side files (the source's README.md becomes README.source.md
// beside a short model card); writes nibblecast.json, hf_quant_config.json, calibration/amax.safetensors
// (what was measured, or the amax file's content), the index, and config.json last; ends the job. All durable
// on return. `base_model`: for the card, OWNER/NAME on the Hub, or empty. Refuses (kRefused) if a source file
// was changed meanwhile.
void finish_output(const Checkpoint& source, const Plan& plan, const Activations& activations,
                   const RunRecord& record, Job& job, const std::filesystem::path& destination,
                   const std::string& base_model = {});

// nibblecast.json but for checksums of headers and files: version, source (identity, name), recipe and every
// option, block counts, coverage, measured amax and bound per layer, times, the attempts at the job.
// docs/formats/nibblecast-json.md.
Json run_document(const Checkpoint& source, const Plan& plan, const Activations& activations,
                  const RunRecord& record, const Job& job);

// Null where it is not known; its "value" null where it is NaN.
Json perplexity_document(const RunRecord& record);

// What it makes in DST besides shards: paths there, of files but for calibration/, and the names that files
// have until they are whole.
std::set<std::filesystem::path> output_names(const Checkpoint& source);

// DST and the folders in it that shards lie in, as the source has them: where their names are made durable.
std::set<std::filesystem::path> shard_folders(const Plan& plan, const std::filesystem::path& destination);

// Bytes of the files that finish_output() copies.
uint64_t side_file_bytes(const Checkpoint& source);

}  // namespace nibblecast
