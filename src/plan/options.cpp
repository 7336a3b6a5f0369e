#include "plan/options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace nibblecast {

std::string_view compute_dtype_name(ComputeDtype dtype) {
  return dtype == ComputeDtype::kBF16 ? "bfloat16" : "float32";
}

std::string_view engine_name(Engine engine) {
  switch (engine) {
    case Engine::kVllm:
      return "vllm";
    case Engine::kSglang:
      return "sglang";
    case Engine::kTrtllm:
      return "trtllm";
  }
  return "?";
}

std::string_view output_format_name(OutputFormat format) {
  switch (format) {
    case OutputFormat::kAuto:
      return "auto";
    case OutputFormat::kModelOptV4:
      return "modelopt-v4";
    case OutputFormat::kModelOpt:
      return "modelopt";
    case OutputFormat::kCompressedTensors:
      return "compressed-tensors";
  }
  return "?";
}

std::optional<OutputFormat> parse_output_format(std::string_view name) {
  for (const OutputFormat format : {OutputFormat::kAuto, OutputFormat::kModelOptV4, OutputFormat::kModelOpt,
                                    OutputFormat::kCompressedTensors})
    if (output_format_name(format) == name) return format;
  return std::nullopt;
}

std::string input_scale_text(const QuantizeOptions& options) {
  switch (options.input_scale) {
    case InputScalePolicy::kLayer:
      return "layer";
    case InputScalePolicy::kExpert:
      return "expert";
    case InputScalePolicy::kConstant:
      return fmt::format("{}", options.constant_input_scale);
  }
  return "?";
}

bool parse_input_scale(std::string_view text, QuantizeOptions& options) {
  if (text == "layer" || text == "expert") {
    options.input_scale = text == "layer" ? InputScalePolicy::kLayer : InputScalePolicy::kExpert;
    return true;
  }
  float value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  if (!(value > 0) || !std::isfinite(value)) return false;
  options.input_scale = InputScalePolicy::kConstant;
  options.constant_input_scale = value;
  return true;
}

}  // namespace nibblecast
