// FP8 weights under F32 scales are quantized from the FP32 products, which BF16 would round.
#include <gtest/gtest.h>

#include "formats/nvfp4_quantize.h"
#include "formats/stored_linear.h"
#include "pipeline/verify.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

using testing::StoredTensor;
using testing::tensor_bytes;

// Linears become FP8 in tiles of 128 x 128 under scales that are no powers of two.
std::vector<StoredTensor> as_fp8(const Checkpoint& source, const Model& model) {
  const ModuleIndex modules(model.table);
  std::vector<StoredTensor> stored;
  for (const Tensor& tensor : source.tensors()) {
    const WeightModule* const module = modules.find(tensor.name);
    if (module == nullptr || module->kind != ModuleKind::kLinear) {
      stored.push_back({tensor.name, tensor.dtype, tensor.shape, tensor_bytes(source, tensor.name)});
      continue;
    }
    const uint64_t down = (tensor.shape[0] + 127) / 128, across = (tensor.shape[1] + 127) / 128;
    std::vector<float> scales;
    for (uint64_t tile = 0; tile < down * across; ++tile)
      scales.push_back(0.0007f + 0.0000131f * static_cast<float>(tile));
    stored.push_back({tensor.name, Dtype::kF8E4M3, tensor.shape});
    stored.push_back({tensor.name + "_scale_inv", Dtype::kF32, {down, across}, testing::bytes_of(scales)});
  }
  return stored;
}

std::vector<float> values_of(const std::string& codes, const std::string& scales, const Shape& shape) {
  const Fp8BlockView view{.codes = reinterpret_cast<const uint8_t*>(codes.data()),
                          .scales = scales.data(),
                          .scale_type = ScaleType::kF32,
                          .rows = shape[0],
                          .cols = shape[1]};
  std::vector<float> values(shape[0] * shape[1]);
  dequantize_rows_ref(view, 0, shape[0], values.data(), shape[1]);
  return values;
}

TEST(Fp8Source, IsQuantizedFromCodeTimesScaleInFp32) {
  const testing::TemporaryFolder folder;
  const auto path = [&](const char* name) { return folder.path() / name; };
  synthesize(preset_config("deepseek-v3-tiny"), "deepseek-v3-tiny", {}, path("bf16"), system_files());
  const Checkpoint bf16_source = Checkpoint::open(path("bf16"), system_files());
  const Model model = read_model(bf16_source.config(), "config.json");
  testing::write_checkpoint(path("fp8"), as_fp8(bf16_source, model), bf16_source.config());
  const Checkpoint source = Checkpoint::open(path("fp8"), system_files());
  for (const RecipeMethod method : {RecipeMethod::kMax, RecipeMethod::kMse, RecipeMethod::kFourOverSix}) {
    QuantizeOptions options;
    options.recipe = "w4a16_nvfp4";
    options.weight_method = method;
    options.engines = {};
    const std::string out = "out" + std::to_string(static_cast<int>(method));
    testing::run_job(source, make_plan(source, options), {}, path(out.c_str()));
    const Checkpoint output = Checkpoint::open(path(out.c_str()), system_files());
    const WeightMethod weight_method = method == RecipeMethod::kMax   ? WeightMethod::kMax
                                       : method == RecipeMethod::kMse ? WeightMethod::kMse
                                                                      : WeightMethod::kFourOverSix;
    // None of these shares its scale.
    for (const char* module : {"model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.kv_b_proj",
                               "model.layers.0.mlp.down_proj", "model.layers.2.mlp.experts.1.down_proj"}) {
      SCOPED_TRACE(out + " " + module);
      const std::string weight = std::string(module) + ".weight";
      const Shape shape = source.at(weight).shape;
      const std::vector<float> values =
          values_of(tensor_bytes(source, weight), tensor_bytes(source, weight + "_scale_inv"), shape);
      const Nvfp4Quantizer quantizer(weight_method, scan_amax(values.data(), values.size()).amax);
      std::string codes(values.size() / 2, '\0'), scales(values.size() / 16, '\0');
      quantizer.encode_ref(values.data(), shape[0], shape[1], reinterpret_cast<uint8_t*>(codes.data()),
                           reinterpret_cast<uint8_t*>(scales.data()));
      EXPECT_EQ(tensor_bytes(output, weight), codes);
      EXPECT_EQ(tensor_bytes(output, weight + "_scale"), scales);
      EXPECT_EQ(tensor_bytes(output, weight + "_scale_2"), testing::bytes_of<float>({quantizer.scale_2()}));
    }
  }
}

}  // namespace
}  // namespace nibblecast
