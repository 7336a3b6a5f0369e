// The cast, and encoding by amax, against the bytes that NVIDIA ModelOpt wrote for the experts of one layer
// of the test model.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "formats/encode_block.h"
#include "formats/mxfp4_to_nvfp4.h"
#include "formats/nvfp4.h"
#include "testing.h"

namespace nibblecast {
namespace {

using Bytes = std::vector<uint8_t>;

class ModelOptBytes {
 public:
  explicit ModelOptBytes(const std::filesystem::path& path)
      : file_(system_files().open(path, Access::kRead)), header_(read_safetensors_header(*file_)) {}

  Bytes read(const std::string& name) {
    const auto tensor = std::find_if(header_.tensors.begin(), header_.tensors.end(),
                                     [&](const Tensor& candidate) { return candidate.name == name; });
    if (tensor == header_.tensors.end()) return {};
    Bytes bytes(tensor->size_bytes);
    file_->read(tensor->offset, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }

 private:
  std::unique_ptr<File> file_;
  SafetensorsHeader header_;
};

struct Weight {
  Bytes codes, scales;
  size_t rows = 0, cols = 0;

  Weight(const Checkpoint& checkpoint, const std::string& name) {
    TensorReader reader(checkpoint);
    const Tensor& packed = checkpoint.at(name + ".weight");
    rows = packed.shape[0];
    cols = packed.shape[1] * 2;
    const auto read = [&](const Tensor& tensor) {
      const std::vector<std::byte> bytes = reader.read(tensor);
      const auto* begin = reinterpret_cast<const uint8_t*>(bytes.data());
      return Bytes(begin, begin + bytes.size());
    };
    codes = read(packed);
    scales = read(checkpoint.at(name + ".scale"));
  }
  std::vector<float> values() const {
    std::vector<float> out(rows * cols);
    dequantize_mxfp4({codes.data(), scales.data(), rows, cols}, 0, rows, out.data(), cols);
    return out;
  }
  float amax() const {
    float largest = 0;
    for (const float value : values()) largest = std::max(largest, std::fabs(value));
    return largest;
  }
  CastScan scan() const { return scan_scales(scales.data(), scales.size()); }
};

void expect_encoded(const Weight& weight, float amax, ModelOptBytes& modelopt, const std::string& name) {
  const std::vector<float> values = weight.values();
  const float scale_2 = nvfp4_global_scale(amax);
  Bytes codes, block_scales;
  for (size_t begin = 0; begin < values.size(); begin += 16) {
    std::array<float, 16> block_values;
    std::copy_n(values.begin() + begin, 16, block_values.begin());
    const testing::EncodedBlock block = testing::encode_block(block_values, scale_2);
    codes.insert(codes.end(), block.codes.begin(), block.codes.end());
    block_scales.push_back(block.scale);
  }
  EXPECT_TRUE(codes == modelopt.read("max/" + name + ".weight")) << name;
  EXPECT_TRUE(block_scales == modelopt.read("max/" + name + ".weight_scale")) << name;
}

void expect_modelopt(const Weight& weight, const CastScan& group, ModelOptBytes& modelopt,
                     const std::string& name) {
  Bytes codes(weight.rows * weight.cols / 2), block_scales(weight.rows * weight.cols / 16);
  const Mxfp4View source = {weight.codes.data(), weight.scales.data(), weight.rows, weight.cols};
  const CastCounts counts = cast_mxfp4_to_nvfp4(source, 0, weight.rows, group.k_max(),
                                                NegativeZero::kModelOpt, codes.data(), block_scales.data());
  EXPECT_EQ(counts.outside_window, 0u) << name;
  EXPECT_TRUE(codes == modelopt.read("cast/" + name + ".weight")) << name;
  EXPECT_TRUE(block_scales == modelopt.read("cast/" + name + ".weight_scale")) << name;
  const float scale_2 = group.scale_2();
  Bytes scale_2_bytes(sizeof scale_2);
  std::memcpy(scale_2_bytes.data(), &scale_2, sizeof scale_2);
  EXPECT_EQ(scale_2_bytes, modelopt.read("cast/" + name + ".weight_scale_2")) << name;
}

TEST(ModelOpt, WritesTheBytesOfTheCast) {
  SKIP_WITHOUT_SHARED_MODEL(source_folder, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt_folder, "tiny-v4-modelopt");
  const Checkpoint checkpoint = Checkpoint::open(source_folder, system_files());
  ModelOptBytes modelopt(modelopt_folder / "layer2.safetensors");
  for (int expert = 0; expert < 16; ++expert) {
    const std::string prefix = "layers.2.ffn.experts." + std::to_string(expert) + ".";
    const Weight w1(checkpoint, prefix + "w1"), w2(checkpoint, prefix + "w2"), w3(checkpoint, prefix + "w3");
    CastScan gate_and_up = w1.scan();
    gate_and_up.merge(w3.scan());
    expect_modelopt(w1, gate_and_up, modelopt, prefix + "w1");
    expect_modelopt(w3, gate_and_up, modelopt, prefix + "w3");
    expect_modelopt(w2, w2.scan(), modelopt, prefix + "w2");
  }
}

TEST(ModelOpt, WritesTheBytesOfEncoding) {
  SKIP_WITHOUT_SHARED_MODEL(source_folder, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt_folder, "tiny-v4-modelopt");
  const Checkpoint checkpoint = Checkpoint::open(source_folder, system_files());
  ModelOptBytes modelopt(modelopt_folder / "layer2.safetensors");
  for (const std::string expert : {"0", "11"}) {
    const std::string prefix = "layers.2.ffn.experts." + expert + ".";
    const Weight w1(checkpoint, prefix + "w1"), w2(checkpoint, prefix + "w2"), w3(checkpoint, prefix + "w3");
    const float gate_and_up = std::max(w1.amax(), w3.amax());
    expect_encoded(w1, gate_and_up, modelopt, prefix + "w1");
    expect_encoded(w3, gate_and_up, modelopt, prefix + "w3");
    expect_encoded(w2, w2.amax(), modelopt, prefix + "w2");
  }
}

}  // namespace
}  // namespace nibblecast
