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
  amax.layers.push_back({.layer = 0, .linears = {{"layers.0.attn.wq_a", 1.5F}}, .experts = {}});
  amax.layers.push_back(
      {.layer = 12,
       .linears = {{"layers.12.attn.wo_a", 0.0F}, {"layers.12.ffn.shared_experts.w2", 3.0F}},
       .experts = {.w13 = {1, 0}, .w2 = {2, 0}, .w2_weighted = {0.5F, 0}, .tokens = {9, 0}}});
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

  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "amax.safetensors";
};

TEST_F(AmaxFileTest, RoundTrip) {
  write_amax(system_files(), path_, example());
  const AmaxFile read = read_amax(system_files(), path_);
  EXPECT_EQ(read.metadata, example().metadata);
  ASSERT_EQ(read.layers.size(), 2u);
  EXPECT_EQ(read.layers[0].layer, 0u);
  EXPECT_EQ(read.layers[1].layer, 12u);
  EXPECT_EQ(read.layers[1].linears, example().layers[1].linears);
  EXPECT_TRUE(read.layers[0].experts.w13.empty());
  EXPECT_THAT(read.layers[1].experts.w13, ElementsAre(1, 0));
  EXPECT_THAT(read.layers[1].experts.w2, ElementsAre(2, 0));
  EXPECT_THAT(read.layers[1].experts.w2_weighted, ElementsAre(0.5F, 0));
  EXPECT_THAT(read.layers[1].experts.tokens, ElementsAre(9, 0));
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
              ElementsAre("layers.12.ffn.experts.tokens I64 [2]", "layers.0.attn.wq_a.input_amax F32 []",
                          "layers.12.attn.wo_a.input_amax F32 []",
                          "layers.12.ffn.shared_experts.w2.input_amax F32 []",
                          "layers.12.ffn.experts.w13.input_amax F32 [2]",
                          "layers.12.ffn.experts.w2.input_amax F32 [2]",
                          "layers.12.ffn.experts.w2.input_amax_weighted F32 [2]"));
  EXPECT_EQ(header.metadata.at("format"), "nibblecast.amax/1");
}

TEST_F(AmaxFileTest, ReadsAFileThatHoldsOneVector) {
  write({tensor("layers.3.ffn.experts.w13.input_amax", Dtype::kF32, {2})}, floats({1, 2}));
  const AmaxFile amax = read_amax(system_files(), path_);
  ASSERT_EQ(amax.layers.size(), 1u);
  EXPECT_EQ(amax.layers[0].layer, 3u);
  EXPECT_THAT(amax.layers[0].experts.w13, ElementsAre(1, 2));
  EXPECT_TRUE(amax.layers[0].experts.w2.empty());
}

TEST_F(AmaxFileTest, RefusesAnotherFormat) {
  write({}, "", {});
  refuse("not an amax file", "found none");
  write({}, "", {{"format", "pt"}});
  refuse("nibblecast.amax/1", "found 'pt'");
  write_plainly(path_, "no safetensors");
  refuse();
}

TEST_F(AmaxFileTest, RefusesUnknownNames) {
  for (const char* name :
       {"amax", "layers.0", "layers.0.", "layers.x.attn.wq_a.input_amax", "layers.00.attn.wq_a.input_amax",
        "layers.99999999999999999999.attn.wq_a.input_amax", "layers.-1.attn.wq_a.input_amax",
        "layers.0.attn.wq_a.weight", "layers.0.input_amax", "layers.0..input_amax",
        "layers.0.ffn.experts.w1.input_amax", "layers.0.ffn.experts.0.w1.input_amax", "head.input_amax",
        "mtp.0.attn.wq_a.input_amax"}) {
    write({tensor(name, Dtype::kF32, {})}, floats({1}));
    refuse(name, "no name of an amax file");
  }
}

TEST_F(AmaxFileTest, RefusesWrongKinds) {
  const std::string scalar = "layers.0.attn.wq_a.input_amax";
  const std::string vector = "layers.0.ffn.experts.w13.input_amax";
  write({tensor(scalar, Dtype::kF32, {1})}, floats({1}));
  refuse(scalar, "expected F32 []", "F32 [1]");
  write({tensor(scalar, Dtype::kI32, {})}, floats({1}));
  refuse(scalar, "expected F32 []", "I32 []");
  write({tensor(vector, Dtype::kF32, {})}, floats({1}));
  refuse(vector, "expected F32 [experts]");
  write({tensor(vector, Dtype::kF32, {0})}, "");
  refuse(vector, "F32 [0]");
  write({tensor("layers.0.ffn.experts.tokens", Dtype::kF32, {1})}, floats({1}));
  refuse("expected I64 [experts]");
  write({tensor(vector, Dtype::kF32, {2}), tensor("layers.0.ffn.experts.w2.input_amax", Dtype::kF32, {1})},
        floats({1, 1, 1}));
  refuse("layers.0.ffn.experts.w2.input_amax", "differ in length");
}

TEST_F(AmaxFileTest, RefusesWrongValues) {
  const std::string vector = "layers.0.ffn.experts.w13.input_amax";
  for (const float value : {std::nanf(""), std::numeric_limits<float>::infinity(), -1.0F}) {
    write({tensor(vector, Dtype::kF32, {2})}, floats({1, value}));
    refuse(vector, "value 1", "finite, not negative");
  }
  const int64_t negative = -3;
  write({tensor("layers.0.ffn.experts.tokens", Dtype::kI64, {1})},
        std::string(reinterpret_cast<const char*>(&negative), sizeof negative));
  refuse("tokens", "-3");
}

}  // namespace
}  // namespace nibblecast
