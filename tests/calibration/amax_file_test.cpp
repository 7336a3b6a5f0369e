#include "calibration/amax_file.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "plain_file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;
using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_plainly;

AmaxFile example() {
  AmaxFile amax{.metadata = {{"model", "abc"}, {"rows", "48"}}, .layers = {}};
  amax.layers.push_back({.layer = 0, .taps = {{"attn.in", {1.5F}}}});
  amax.layers.push_back({.layer = 12,
                         .taps = {{"attn.out", {0.0F}},
                                  {"shared.mid", {3.0F}},
                                  {"experts.in", {1, 0}},
                                  {"experts.mid", {2, 0}},
                                  {"experts.mid_weighted", {0.5F, 0}}},
                         .tokens = {9, 0}});
  return amax;
}

class AmaxFileTest : public ::testing::Test {
 protected:
  // A file with these tensors, whose data are `data` one behind the other.
  void write(std::vector<Tensor> tensors, const std::string& data,
             const std::map<std::string, std::string>& metadata = {{"format", std::string(kAmaxFormat)}}) {
    uint64_t offset = 0;
    for (Tensor& tensor : tensors) {
      tensor.size_bytes = *element_count(tensor.shape) * dtype_bytes(tensor.dtype);
      tensor.offset = offset;
      offset += tensor.size_bytes;
    }
    write_plainly(path_, write_safetensors_header(tensors, metadata) + data);
  }
  template <class... Parts>
  void refuse(const Parts&... parts) {
    expect_error(
        ErrorKind::kBadInput, [&] { read_amax(system_files(), path_); }, "amax.safetensors", parts...);
  }
  static Tensor tensor(const std::string& name, Dtype dtype, Shape shape) {
    Tensor made;
    made.name = name;
    made.dtype = dtype;
    made.shape = std::move(shape);
    return made;
  }
  static std::string floats(std::vector<float> values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }

  const std::map<std::string, std::string> kFirst = {{"format", "nibblecast.amax/1"}};
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "amax.safetensors";
};

TEST_F(AmaxFileTest, RoundTrip) {
  write_amax(system_files(), path_, example());
  const AmaxFile read = read_amax(system_files(), path_);
  EXPECT_EQ(read.metadata, example().metadata);
  EXPECT_EQ(read.layers, example().layers);
  EXPECT_FALSE(system_files().status(path_.string() + ".partial"));
}

TEST_F(AmaxFileTest, NamesAndDtypesAreTheFormats) {
  write_amax(system_files(), path_, example());
  const auto header = read_safetensors_header(*system_files().open(path_, Access::kRead));
  std::vector<std::string> tensors;
  for (const Tensor& t : header.tensors) {
    tensors.push_back(t.name + " " + std::string(dtype_name(t.dtype)) + " " + shape_text(t.shape));
    EXPECT_EQ(t.offset % dtype_bytes(t.dtype), 0u) << t.name;
  }
  EXPECT_THAT(tensors,
              ElementsAre("layers.12.experts.tokens I64 [2]", "layers.0.attn.in.amax F32 []",
                          "layers.12.attn.out.amax F32 []", "layers.12.experts.in.amax F32 [2]",
                          "layers.12.experts.mid.amax F32 [2]", "layers.12.experts.mid_weighted.amax F32 [2]",
                          "layers.12.shared.mid.amax F32 []"));
  EXPECT_EQ(header.metadata.at("format"), "nibblecast.amax/2");
}

TEST_F(AmaxFileTest, SecondMomentsAreOneMoreTensorATap) {
  AmaxFile amax = example();
  amax.layers[0].second_moments = {{"attn.in", {1, 2, 3}}};
  amax.layers[1].second_moments = {{"experts.in", {1, 2, 3, 0, 0, 0}}};
  write_amax(system_files(), path_, amax);
  EXPECT_EQ(read_amax(system_files(), path_).layers, amax.layers);
  const auto header = read_safetensors_header(*system_files().open(path_, Access::kRead));
  std::map<std::string, std::string> moments;
  for (const Tensor& t : header.tensors)
    if (t.name.ends_with(".second_moment")) moments[t.name] = shape_text(t.shape);
  EXPECT_EQ(moments, (std::map<std::string, std::string>{{"layers.0.attn.in.second_moment", "[3]"},
                                                         {"layers.12.experts.in.second_moment", "[2, 3]"}}));
}

TEST_F(AmaxFileTest, SecondMomentsOfAnotherKindAreRefused) {
  write({tensor("layers.0.attn.in.second_moment", Dtype::kF32, {2, 1})}, floats({1, 2}));
  refuse("layers.0.attn.in.second_moment", "F32 [channels]", "[2, 1]");
  write({tensor("layers.0.experts.in.second_moment", Dtype::kF32, {2})}, floats({1, 2}));
  refuse("layers.0.experts.in.second_moment", "F32 [experts, channels]");
  write({tensor("layers.0.attn.in.second_moment", Dtype::kF32, {0})}, "");
  refuse("layers.0.attn.in.second_moment");
  write({tensor("layers.0..second_moment", Dtype::kF32, {1})}, floats({1}));
  refuse("no name of an amax file");
  for (const float value : {-1.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    write({tensor("layers.0.attn.in.second_moment", Dtype::kF32, {2})}, floats({1, value}));
    refuse("value 1 is none");
  }
  write({tensor("layers.0.experts.in.amax", Dtype::kF32, {3}),
         tensor("layers.0.experts.in.second_moment", Dtype::kF32, {2, 1})},
        floats({1, 2, 3, 4, 5}));
  refuse("vectors of one layer differ in length");
}

TEST_F(AmaxFileTest, ReadsAFileThatHoldsOneVector) {
  write({tensor("layers.3.experts.in.amax", Dtype::kF32, {2})}, floats({1, 2}));
  const AmaxFile amax = read_amax(system_files(), path_);
  EXPECT_THAT(amax.layers, ElementsAre(LayerAmax{.layer = 3, .taps = {{"experts.in", {1, 2}}}}));
}

// ---- version 1, which has DeepSeek-V4's modules ----

// Every name of that version; linears that share an input had an entry each.
TEST_F(AmaxFileTest, VersionOneIsReadByTaps) {
  const std::pair<const char*, const char*> names[] = {
      {"attn.wq_a", "attn.in"},
      {"attn.wkv", "attn.in"},
      {"attn.compressor.wkv", "attn.in"},
      {"attn.compressor.wgate", "attn.in"},
      {"attn.indexer.weights_proj", "attn.in"},
      {"attn.indexer.compressor.wkv", "attn.in"},
      {"attn.indexer.compressor.wgate", "attn.in"},
      {"attn.wq_b", "attn.q_rank"},
      {"attn.indexer.wq_b", "attn.q_rank"},
      {"attn.wo_a", "attn.out"},
      {"attn.wo_b", "attn.out_rank"},
      {"ffn.gate", "ffn.in"},
      {"ffn.shared_experts.w1", "ffn.in"},
      {"ffn.shared_experts.w3", "ffn.in"},
      {"ffn.shared_experts.w2", "shared.mid"},
  };
  for (const auto& [module, tap] : names) {
    write({tensor("layers.7." + std::string(module) + ".input_amax", Dtype::kF32, {})}, floats({3}), kFirst);
    EXPECT_THAT(read_amax(system_files(), path_).layers,
                ElementsAre(LayerAmax{.layer = 7, .taps = {{tap, {3}}}}))
        << module;
  }
}

TEST_F(AmaxFileTest, VersionOnesExpertsAreReadByTaps) {
  const int64_t tokens[] = {9, 0};
  write({tensor("layers.1.ffn.experts.tokens", Dtype::kI64, {2}),
         tensor("layers.1.ffn.experts.w13.input_amax", Dtype::kF32, {2}),
         tensor("layers.1.ffn.experts.w2.input_amax", Dtype::kF32, {2}),
         tensor("layers.1.ffn.experts.w2.input_amax_weighted", Dtype::kF32, {2}),
         tensor("layers.1.attn.wq_a.input_amax", Dtype::kF32, {}),
         tensor("layers.1.attn.wkv.input_amax", Dtype::kF32, {})},
        std::string(reinterpret_cast<const char*>(tokens), sizeof tokens) + floats({1, 0, 2, 0, 3, 0, 4, 5}),
        kFirst);
  const AmaxFile amax = read_amax(system_files(), path_);
  // Of linears that share an input the largest; a calibration gave them the same.
  const LayerAmax expected{.layer = 1,
                           .taps = {{"experts.in", {1, 0}},
                                    {"experts.mid", {2, 0}},
                                    {"experts.mid_weighted", {3, 0}},
                                    {"attn.in", {5}}},
                           .tokens = {9, 0}};
  EXPECT_THAT(amax.layers, ElementsAre(expected));
  // What is written of it is version 2.
  write_amax(system_files(), path_, amax);
  EXPECT_EQ(read_safetensors_header(*system_files().open(path_, Access::kRead)).metadata.at("format"),
            "nibblecast.amax/2");
  EXPECT_EQ(read_amax(system_files(), path_).layers, amax.layers);
}

TEST_F(AmaxFileTest, NamesOfOneVersionAreNoneOfTheOther) {
  for (const char* name :
       {"layers.0.attn.in.amax", "layers.0.experts.in.amax", "layers.0.attn.wq_z.input_amax",
        "layers.0.attn.wq_a.input_amax_weighted", "layers.0.ffn.experts.w1.input_amax",
        "layers.0.ffn.experts.0.w1.input_amax", "layers.0.input_amax"}) {
    write({tensor(name, Dtype::kF32, {})}, floats({1}), kFirst);
    refuse(name, "no name of an amax file");
  }
  for (const char* name : {"layers.0.attn.wq_a.input_amax", "layers.0.ffn.experts.w2.input_amax_weighted",
                           "layers.0.ffn.experts.tokens"}) {
    write({tensor(name, Dtype::kF32, {})}, floats({1}));
    refuse(name, "no name of an amax file");
  }
}

TEST_F(AmaxFileTest, RefusesAnotherFormat) {
  write({}, "", {});
  refuse("not an amax file", "found none");
  write({}, "", {{"format", "pt"}});
  refuse("nibblecast.amax/2", "found 'pt'");
  write({}, "", {{"format", "nibblecast.amax/3"}});
  refuse("not an amax file", "found 'nibblecast.amax/3'");
  write_plainly(path_, "no safetensors");
  refuse();
}

TEST_F(AmaxFileTest, RefusesUnknownNames) {
  for (const char* name :
       {"amax", "layers.0", "layers.0.", "layers.x.attn.in.amax", "layers.00.attn.in.amax",
        "layers.99999999999999999999.attn.in.amax", "layers.-1.attn.in.amax", "layers.0.attn.in.weight",
        "layers.0.amax", "layers.0..amax", "head.amax", "mtp.0.attn.in.amax"}) {
    write({tensor(name, Dtype::kF32, {})}, floats({1}));
    refuse(name, "no name of an amax file");
  }
}

TEST_F(AmaxFileTest, RefusesWrongKinds) {
  const std::string scalar = "layers.0.attn.in.amax";
  const std::string vector = "layers.0.experts.in.amax";
  write({tensor(scalar, Dtype::kF32, {1})}, floats({1}));
  refuse(scalar, "expected F32 []", "F32 [1]");
  write({tensor(scalar, Dtype::kI32, {})}, floats({1}));
  refuse(scalar, "expected F32 []", "I32 []");
  write({tensor(vector, Dtype::kF32, {})}, floats({1}));
  refuse(vector, "expected F32 [experts]");
  write({tensor(vector, Dtype::kF32, {0})}, "");
  refuse(vector, "F32 [0]");
  write({tensor("layers.0.experts.tokens", Dtype::kF32, {1})}, floats({1}));
  refuse("expected I64 [experts]");
  write({tensor(vector, Dtype::kF32, {2}), tensor("layers.0.experts.mid.amax", Dtype::kF32, {1})},
        floats({1, 1, 1}));
  refuse("layers.0.experts.mid.amax", "differ in length");
}

TEST_F(AmaxFileTest, RefusesWrongValues) {
  const std::string vector = "layers.0.experts.in.amax";
  for (const float value : {std::nanf(""), std::numeric_limits<float>::infinity(), -1.0F}) {
    write({tensor(vector, Dtype::kF32, {2})}, floats({1, value}));
    refuse(vector, "value 1", "finite, not negative");
  }
  const int64_t negative = -3;
  write({tensor("layers.0.experts.tokens", Dtype::kI64, {1})},
        std::string(reinterpret_cast<const char*>(&negative), sizeof negative));
  refuse("tokens", "-3");
}

}  // namespace
}  // namespace nibblecast
