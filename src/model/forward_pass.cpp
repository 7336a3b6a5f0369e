#include "model/forward_pass.h"

#include <utility>

#include "base/error.h"
#include "model/decoder/forward.h"
#include "model/families/deepseek_v4/forward.h"
#include "model/families/deepseek_v4/pass.h"

namespace nibblecast {

void ForwardPass::set_input_scales(InputScales scales) {
  if (scales.empty()) return;
  throw Error(ErrorKind::kUnsupported, {.tensor = scales.begin()->first},
              "its input is to be rounded, which this forward pass does not do",
              {.hint = "give --activations none, or --device cpu"});
}

void ForwardPass::measure_second_moments() {
  throw Error(ErrorKind::kUnsupported, {}, "this forward pass measures no second moments",
              {.hint = "give --device cpu, or leave out --second-moments"});
}

void ForwardPass::measure_block_amaxes() {
  throw Error(ErrorKind::kUnsupported, {}, "this forward pass does not see how large blocks of inputs are",
              {.hint = "leave percentiles out of --input-scales, or give --device cpu"});
}

void ForwardPass::set_wide_head() {
  throw Error(ErrorKind::kUnsupported, {}, "this forward pass takes its head in BF16 alone",
              {.hint = "give --compute-dtype bfloat16"});
}

template <class T>
std::unique_ptr<ForwardPass> make_forward_pass(const Model& model, std::vector<std::vector<int32_t>> rows,
                                               const ForwardDevice& device) {
  if (const auto* config = std::get_if<DeepseekV4Config>(&model.spec))
    return make_deepseek_v4_pass<T>(*config, std::move(rows), device);
  return make_decoder_forward<T>(model, rows, device);
}

template <class T>
uint64_t forward_memory_bytes(const Model& model, uint64_t tokens, uint64_t longest_row, size_t threads) {
  if (const auto* config = std::get_if<DeepseekV4Config>(&model.spec))
    return DeepseekV4Forward<T>::memory_bytes(*config, tokens, longest_row, threads);
  return decoder_memory_bytes<T>(model, tokens, longest_row, threads);
}

template std::unique_ptr<ForwardPass> make_forward_pass<float>(const Model&,
                                                               std::vector<std::vector<int32_t>>,
                                                               const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_forward_pass<bf16>(const Model&, std::vector<std::vector<int32_t>>,
                                                              const ForwardDevice&);
template uint64_t forward_memory_bytes<float>(const Model&, uint64_t, uint64_t, size_t);
template uint64_t forward_memory_bytes<bf16>(const Model&, uint64_t, uint64_t, size_t);

}  // namespace nibblecast
