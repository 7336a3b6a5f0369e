#include "plan/dequantize.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "checkpoint/manifest.h"
#include "plan/linear.h"
#include "plan/packed_linears.h"

namespace nibblecast {
namespace {

const char* dtype_word(Dtype dtype) { return dtype == Dtype::kF32 ? "float32" : "bfloat16"; }

class DequantizePlanner {
 public:
  DequantizePlanner(const Checkpoint& source, const DequantizeOptions& options)
      : source_(source), options_(options), dtype_(options.dtype), replacements_(keep_all(source)) {}

  Plan make() {
    const TileSize tiles = tile_size(source_);
    plan_.command = "dequantize";
    plan_.made = dequantize_text(options_);
    plan_.model.tile_rows = tiles.rows;
    plan_.model.tile_cols = tiles.cols;
    for (const PackedLinear& packed : find_packed_linears(source_)) widen(packed);
    for (uint32_t index = 0; index < source_.tensors().size(); ++index) look_at(index);
    lay_out(source_, replacements_, plan_);
    order_work();
    plan_.config = dequantized_config(source_.config(), dtype_word(dtype_));
    index_output(source_, plan_);
    return std::move(plan_);
  }

 private:
  void widen(const PackedLinear& packed) {
    replace_linear(source_, packed.linear, {.make = Make::kWideWeight, .dtype = dtype_}, replacements_);
    if (packed.input_scale != kNone) replacements_.in_place[packed.input_scale].clear();
    linears_.push_back(packed.linear);
  }

  // Of the tensors that nothing was said of yet.
  void look_at(uint32_t index) {
    const Tensor& tensor = source_.tensors()[index];
    if (tensor.dtype == Dtype::kF8E5M2 || (tensor.dtype == Dtype::kF16 && dtype_ == Dtype::kF32)) {
      throw Error(ErrorKind::kUnsupported, source_.where(tensor),
                  fmt::format("is {}, which `dequantize` does not read", dtype_name(tensor.dtype)),
                  {.expected = "BF16, F32, FP8 (E4M3) or FP4 with their scales, or integers", .hint = {}});
    }
    if (tensor.dtype != Dtype::kBF16 || dtype_ != Dtype::kF32) return;
    OutputTensor& out = replacements_.in_place[index][0];
    out.dtype = dtype_;
    if (tensor.size_bytes == 0) return;  // no value to widen
    out.make = Make::kWideWeight;
    plain_.push_back(index);
  }

  void order_work() {
    const auto indices = indices_by_name(plan_);
    std::vector<PlannedLinear> linears;
    for (const SourceLinear& linear : linears_) linears.push_back(planned_linear(linear, indices));
    for (const uint32_t index : plain_) {
      linears.push_back({.source_weight = index, .weight = indices.at(source_.tensors()[index].name)});
    }
    add_only_stage(source_, linears, plan_);
  }

  const Checkpoint& source_;
  const DequantizeOptions options_;
  const Dtype dtype_;
  Plan plan_;
  Replacements replacements_;
  std::vector<SourceLinear> linears_;
  std::vector<uint32_t> plain_;  // BF16 that becomes F32
};

}  // namespace

std::string dequantize_text(const DequantizeOptions& options) {
  return std::string("dequantize ") + dtype_word(options.dtype);
}

std::optional<DequantizeOptions> parse_dequantize(std::string_view text) {
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
    const DequantizeOptions options{.dtype = dtype};
    if (dequantize_text(options) == text) return options;
  }
  return std::nullopt;
}

Plan make_dequantize_plan(const Checkpoint& source, const DequantizeOptions& options) {
  return DequantizePlanner(source, options).make();
}

}  // namespace nibblecast
