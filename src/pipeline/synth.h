// pipeline/synth.h - a DeepSeek-V4 checkpoint in the release's layout with random weights: for tests,
// benchmarks at real width and demonstrations. A forward pass over it stays finite, and the router sends
// tokens to every expert; it says nothing sensible.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "base/file.h"
#include "base/json.h"

namespace nibblecast {

struct LayerRange {
  uint64_t first = 0, last = 0;  // inclusive
};

struct SynthOptions {
  // Only these layers, renumbered from 0 (compress_ratios, num_hash_layers follow), without draft layer.
  std::optional<LayerRange> layers = {};
  std::optional<uint64_t> experts = {};  // routed experts a layer instead of the config's
  // As V4's Base releases: FP8 experts, and F32 scales everywhere. The same as expert_dtype "fp8" in the
  // config.
  bool fp8_experts = false;
  uint64_t seed = 0;
  // Headers and holes only (every byte reads as zero), except the norm vectors: all of V4-Pro in some 30 MB,
  // to plan on.
  bool sparse = false;
  // May be empty. Called after every piece written, from any thread, one call at a time.
  std::function<void(const std::string& shard, uint64_t bytes_done, uint64_t bytes)> progress = {};
};

// Makes `out` with shards (embed first, then a shard a layer, then norm and head, then mtp), index,
// config.json, generation_config.json, a tokenizer of the 256 bytes (BOS 0, EOS 1, byte b is 2 + b) and
// README.md. Inside a shard tensors stand in the order of the safetensors library. The bytes depend on config
// and options alone, not on threads or machine. Memory: below 300 MB. Shards are written under NAME.partial,
// synced, renamed; index and config come last. Errors: kRefused if `out` exists and holds anything; kUsage
// for layers or experts the config cannot have; kBadInput, kUnsupported as DeepseekV4Config::parse, with
// `config_file` as the file; kIo, kDiskFull.
void synthesize(const Json& config, const std::string& config_file, const SynthOptions& options,
                const std::filesystem::path& out, FileSystem& files);

}  // namespace nibblecast
