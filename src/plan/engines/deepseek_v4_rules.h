// plan/engines/deepseek_v4_rules.h - the parts of check_engine_contracts() (plan/engines.h): each appends its
// breaches in a fixed order.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "plan/engines.h"
#include "plan/engines/deepseek_v4_tensors.h"

namespace nibblecast {

class V4Breaches {
 public:
  void add(const std::vector<Engine>& engines, const std::string& rule, const std::string& remedy = "") {
    for (const Engine engine : engines) list_.push_back({engine, rule, remedy});
  }
  void add(std::vector<Breach> breaches) { list_.insert(list_.end(), breaches.begin(), breaches.end()); }
  std::vector<Breach> take() && { return std::move(list_); }

 private:
  std::vector<Breach> list_;
};

struct V4Documents {
  const Json& config;
  const Json& hf_quant_config;  // null where there is none
  Json quantization_config;     // of the config
  bool has_nvfp4 = true;        // or nothing says what the experts are
};

// The model's own keys in config.json.
void check_v4_model(const V4Documents& documents, V4Breaches& breaches);
// What config.json and hf_quant_config.json say of quantization.
void check_v4_quantization(const V4Documents& documents, const V4Tensors& tensors, V4Breaches& breaches);
// That experts are complete, and those that are NVFP4 as engines read them.
void check_v4_experts(const Json& config, V4Tensors tensors, V4Breaches& breaches);

}  // namespace nibblecast
