#include "plan/options.h"

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

}  // namespace nibblecast
