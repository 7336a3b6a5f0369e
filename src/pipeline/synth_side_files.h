// pipeline/synth_side_files.h - what stands beside the weights of a synthetic checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/file.h"

namespace nibblecast {

// Token ids of the tokenizer: BOS, EOS, then the bytes.
inline constexpr int kSynthBos = 0, kSynthEos = 1, kSynthFirstByte = 2;
inline constexpr uint64_t kSynthTokens = kSynthFirstByte + 256;

// generation_config.json, tokenizer.json (byte-level BPE without merges; as the release's, it adds no BOS),
// tokenizer_config.json and README.md with `description` in it.
void write_synth_side_files(FileSystem& files, const std::filesystem::path& out,
                            const std::string& description, uint64_t max_position_embeddings);

}  // namespace nibblecast
