// tests/pipeline/small_models.h - models of each kind, small enough for hundreds of whole jobs over one.
#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "model/family.h"
#include "pipeline/synth.h"
#include "plan/options.h"

namespace nibblecast::testing {

struct SmallModel {
  std::string name;  // of tests too
  Json config;
  std::string recipe;
  SynthOptions synth = {};

  QuantizeOptions options() const { return {.recipe = recipe}; }
  void make(const std::filesystem::path& folder, FileSystem& files) const {
    synthesize(config, name, synth, folder, files);
  }
};

inline void PrintTo(const SmallModel& model, std::ostream* out) { *out << model.name; }

inline Json small_decoder(const char* preset) {
  Json config = preset_config(preset);
  config.update({{"num_hidden_layers", 5},
                 {"max_window_layers", 5},
                 {"vocab_size", 384},
                 {"hidden_size", 64},
                 {"head_dim", 16},
                 {"intermediate_size", 96}});
  return config;
}

// Five layers each. DeepSeek-V4's experts are MXFP4; the dense model's head is its embedding, and its
// attention is quantized too; the first layer of the model with experts is dense and stays as it is.
inline SmallModel small_v4() { return {"v4", preset_config("v4-tiny"), "auto"}; }
inline SmallModel small_dense() { return {"dense", small_decoder("qwen3-tiny"), "nvfp4"}; }
inline SmallModel small_moe() {
  SmallModel model{"moe", small_decoder("qwen3-moe-tiny"), "auto"};
  model.config["moe_intermediate_size"] = 32;
  return model;
}
inline std::vector<SmallModel> small_models() { return {small_v4(), small_dense(), small_moe()}; }

// Two of its layers, with as few experts as there can be.
inline SmallModel smallest(SmallModel model) {
  model.synth.layers = LayerRange{0, 1};
  if (model.name != "dense") model.synth.experts = 4;
  return model;
}

inline std::string model_name(const ::testing::TestParamInfo<SmallModel>& model) { return model.param.name; }

}  // namespace nibblecast::testing
