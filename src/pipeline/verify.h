// pipeline/verify.h - holds an output against its source: is it, to the last bit, what the plan makes of it?
//
// Reads every byte of both once. What is compared is names, dtypes, shapes and values, not the file layout,
// so an output of ModelOpt's script is judged like one of ours. Values are decoded by the plain reference
// code, not by the kernels that wrote.
//
//   folder       index, shards and documents can be read; every index entry is true, total_size is
//   tensors      every planned one, with dtype and shape; nothing else
//   kept         equal to the source's, to the byte
//   experts      each MXFP4 block of 32: the output's values equal the source's exactly, in the
//   representation that
//                the cast's rule gives (formats/mxfp4_to_nvfp4.h); a block outside its window is to the bit
//                what the rule makes of it. The sign of zero follows nibblecast.json; without it, it must be
//                one policy throughout
//   made         what is made anew equals, to the byte, what the reference code makes of the source; FP8 that
//                was cast (PlannedLinear::try_cast) has the source's values too
//   scales       positive, finite, w1's and w3's the same bits; input_scale as calibration/amax.safetensors
//   and the
//                policy make it, where the output has that file
//   documents    config.json, hf_quant_config.json and index as the plan would write them, producer aside,
//   and
//                true of the tensors; nibblecast.json true of source and blocks
//   engines      their loaders' contracts (plan/engines.h)
//
// Outputs of `dequantize` and `convert`, which nibblecast.json names as such, are held in the same way
// against the plan that these commands make of the source; engines' contracts say nothing of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "pipeline/run.h"
#include "plan/options.h"

namespace nibblecast {

struct VerifyOptions {
  // Whose breached contract is a problem, not a note; nothing: those that nibblecast.json records, or without
  // one the default of quantize.
  std::optional<std::set<Engine>> engines = {};
  uint64_t memory_bytes = 256 << 20;  // of read buffers; at least one expert of source and output is held
  // Called from the calling thread; stage is the source's shard, bytes are those of source and output. May be
  // empty.
  std::function<void(const Progress&)> progress = {};
};

struct VerifyReport {
  // One line each, naming tensor or file; of one kind at most 20 lines and then one with the number of the
  // rest.
  std::vector<std::string> problems;
  // Requantized tensors with their error, the producer, contracts of other engines, what could not be
  // checked.
  std::vector<std::string> notes;
  uint64_t tensors = 0;             // planned
  uint64_t blocks = 0;              // MXFP4 blocks compared, and FP8 blocks that are exactly MXFP4
  uint64_t identical_blocks = 0;    // of them, with the source's values exactly
  uint64_t requantized_blocks = 0;  // outside the cast's window; some of them may be identical nevertheless
  uint64_t kept_bytes = 0;          // compared
  uint64_t made_bytes = 0;          // of weights and block scales made anew, compared

  bool ok() const { return problems.empty(); }
};

// Whatever is wrong with the output becomes a problem, and the rest is checked as far as it can be read; the
// report does not depend on threads or memory. Throws for what hinders checking: a source that no plan fits
// (as make_plan), `output_folder` is no folder (kBadInput), the system fails to read (kIo).
VerifyReport verify(const Checkpoint& source, const std::filesystem::path& output_folder, FileSystem& files,
                    const VerifyOptions& options = {});

}  // namespace nibblecast
