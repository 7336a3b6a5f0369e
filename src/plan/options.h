// plan/options.h - every choice that changes what a run makes, with its default.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "formats/mxfp4_to_nvfp4.h"
#include "plan/recipe.h"

namespace nibblecast {

enum class ComputeDtype { kBF16, kF32 };
std::string_view compute_dtype_name(ComputeDtype dtype);  // "bfloat16", "float32"

// Which amax becomes an expert's input_scale.
enum class InputScalePolicy {
  kLayer,  // the largest of all experts of the layer, one value for w1/w3 and one for w2: what engines reduce
           // to
  kExpert,    // each expert's own; an expert without tokens gets its layer's largest
  kConstant,  // none: every input_scale is QuantizeOptions::constant_input_scale, and nothing need be
              // measured
};
// Which measured input of w2 counts: DeepSeek's code and ModelOpt's script apply the routing weight before
// w2, the engines' fused kernels after it.
enum class W2Input { kMax, kWeighted, kUnweighted };

enum class Engine { kVllm, kSglang, kTrtllm };
inline constexpr Engine kAllEngines[] = {Engine::kVllm, Engine::kSglang, Engine::kTrtllm};
std::string_view engine_name(Engine engine);  // "vllm", "sglang", "trtllm"

// How the output names its tensors and says what it is.
enum class OutputFormat {
  kAuto,               // the family's own, where it has one, else kModelOpt
  kModelOptV4,         // ModelOpt's form of DeepSeek-V4, beside the release's FP8 (checkpoint/manifest.h)
  kModelOpt,           // ModelOpt's unified Hugging Face form (plan/dialects/modelopt.h)
  kCompressedTensors,  // llm-compressor's, nvfp4-pack-quantized (plan/dialects/compressed_tensors.h)
};
// "auto", "modelopt-v4", "modelopt", "compressed-tensors"
std::string_view output_format_name(OutputFormat format);
std::optional<OutputFormat> parse_output_format(std::string_view name);

inline constexpr std::string_view kAutoRecipe = "auto";

struct QuantizeOptions {
  std::string recipe{kAutoRecipe};  // a built-in name, a path, or kAutoRecipe: plan/auto_recipe.h chooses
  OutputFormat format = OutputFormat::kAuto;
  std::string recipe_text = {};                    // the content of the file at that path; empty: it is read
  std::optional<RecipeMethod> weight_method = {};  // instead of the recipe's
  std::optional<KvCache> kv_cache = {};            // instead of the recipe's
  ComputeDtype compute_dtype = ComputeDtype::kBF16;
  InputScalePolicy input_scale = InputScalePolicy::kLayer;
  float constant_input_scale = 1;  // of kConstant: finite and > 0
  W2Input w2_input = W2Input::kMax;
  bool second_moments = false;  // `calibrate` measures them too (LayerAmax::second_moments)
  NegativeZero negative_zero = NegativeZero::kKeep;
  std::set<Engine> engines = {Engine::kVllm, Engine::kSglang};  // whose contract a breach is a refusal of
};

// "layer", "expert" or the constant, as --input-scale takes it and nibblecast.json holds it.
std::string input_scale_text(const QuantizeOptions& options);
// Sets both of the options' fields. False: `text` is none of these, or no finite number above 0.
bool parse_input_scale(std::string_view text, QuantizeOptions& options);

}  // namespace nibblecast
