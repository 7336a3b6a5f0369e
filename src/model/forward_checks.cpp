#include "model/forward_checks.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "checkpoint/tensor.h"

namespace nibblecast {
namespace {

std::string amax_text(float amax) { return std::isnan(amax) ? "NaN" : "infinity"; }

}  // namespace

void check_row_length(const Model& model, uint64_t longest) {
  const auto* const spec = std::get_if<DecoderSpec>(&model.spec);
  if (spec == nullptr) return;
  if (spec->longest_row != 0 && longest > spec->longest_row) {
    throw Error(
        ErrorKind::kUnsupported, {},
        "in longer rows queries are scaled by their positions (llama_4_scaling_beta), which the forward "
        "pass does not do",
        {.expected = "rows of at most " + std::to_string(spec->longest_row) + " tokens",
         .found = std::to_string(longest),
         .hint = "give shorter rows (--calib-seq, --text-seq)"});
  }
  for (const DecoderLayer& layer : spec->layers) {
    const auto* const mla = std::get_if<MlaSpec>(&layer.mixer);
    if (mla == nullptr || mla->most_keys == 0 || longest <= mla->most_keys) continue;
    throw Error(
        ErrorKind::kUnsupported, {},
        "in longer rows than index_topk an indexer chooses the keys of a query, which the forward pass "
        "does not do",
        {.expected = "rows of at most " + std::to_string(mla->most_keys) + " tokens",
         .found = std::to_string(longest),
         .hint = "give shorter rows (--calib-seq, --text-seq)"});
  }
}

void check_shape(const std::string& module, const StoredLinear& weight, size_t rows, size_t cols) {
  if (rows_of(weight) == rows && cols_of(weight) == cols) return;
  throw Error(
      ErrorKind::kBadInput, {.tensor = module}, "does not fit the model's configuration",
      {.expected = shape_text({rows, cols}), .found = shape_text({rows_of(weight), cols_of(weight)})});
}

void check_input(const std::string& module, float amax) {
  if (std::isfinite(amax)) return;
  throw Error(ErrorKind::kBadInput, {.tensor = module}, "has an input that is not finite",
              {.found = amax_text(amax),
               .hint = "a weight before it is NaN or far too large; is the checkpoint damaged?"});
}

void check_streams(const std::string& module, float amax) {
  if (std::isfinite(amax)) return;
  throw Error(ErrorKind::kBadInput, {.tensor = module}, "leaves residual streams that are not finite",
              {.found = amax_text(amax),
               .hint = "a weight of this layer is NaN or far too large; is the checkpoint damaged?"});
}

void check_embedding(const std::string& tensor, float amax) {
  if (std::isfinite(amax)) return;
  throw Error(ErrorKind::kBadInput, {.tensor = tensor}, "holds values that are not finite");
}

void check_moments(uint64_t layer, const std::string& tap, std::span<const float> moments) {
  const auto wrong = std::ranges::find_if(moments, [](float moment) { return !std::isfinite(moment); });
  if (wrong == moments.end()) return;
  throw Error(ErrorKind::kUnsupported, {.tensor = "layers." + std::to_string(layer) + "." + tap},
              "the mean square of channel " + std::to_string(wrong - moments.begin()) + " is beyond FP32",
              {.hint = "leave out --second-moments"});
}

void refuse_nan_score(const std::string& module) {
  throw Error(ErrorKind::kBadInput, {.tensor = module}, "scores an expert NaN",
              {.hint = "a weight or bias is NaN or far too large; is the checkpoint damaged?"});
}

}  // namespace nibblecast
