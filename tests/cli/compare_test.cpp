// `compare` of the tiny release and what is made of it.
#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "formats/stored_linear.h"
#include "run_cli.h"
#include "weights/container.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// All values of a linear, by the plain definitions.
std::vector<float> values_of(const Checkpoint& checkpoint, const std::string& module) {
  const TileSize tiles = tile_size(checkpoint.config(), "config.json");
  const LinearSource linear = source_of(checkpoint, find_linear(checkpoint, module, tiles).value());
  TensorReader reader(checkpoint);
  std::vector<std::vector<std::byte>> bytes;
  std::vector<std::span<const std::byte>> parts;
  linear.for_parts(
      [&](const Slice& part) { bytes.push_back(reader.read(checkpoint.tensors()[part.tensor])); });
  parts.assign(bytes.begin(), bytes.end());
  std::vector<float> values(linear.format.rows * linear.format.cols);
  dequantize_rows_ref(linear.view(linear.format.rows, parts), 0, linear.format.rows, values.data(),
                      linear.format.cols);
  return values;
}

double snr_db(const std::vector<float>& a, const std::vector<float>& b) {
  double signal = 0, noise = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    signal += double{a[i]} * double{a[i]};
    noise += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
  }
  return 10 * std::log10(signal / noise);
}

class CompareCommand : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  void quantize(const std::string& source, const std::string& name, const std::string& method) const {
    const CliResult result =
        run_cli({"quantize", source, path(name), "--input-scale", "1.0", "--weight-method", method,
                 "--recipe", "nvfp4_experts_only", "--engine", "none", "--quiet"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }

 private:
  TemporaryFolder folder_;
};

void expect_no_difference(const Json& json) {
  EXPECT_EQ(json["different"], 0);
  EXPECT_EQ(json["only_in_a"], 0);
  for (const Json& module : json["modules"]) {
    EXPECT_TRUE(module["snr_db"].is_null()) << module;
    EXPECT_EQ(module["max_abs"], 0) << module;
  }
}

TEST_F(CompareCommand, AnUnfinishedOutputIsCalledThat) {
  std::filesystem::create_directories(path("out/.nibblecast"));
  write_file(path("out/model.safetensors.partial"), "");
  const CliResult result = run_cli({"compare", tiny_checkpoint().string(), path("out")});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_NE(result.err.find("is an unfinished output"), std::string::npos) << result.err;
}

// Experts in one tensor are held against single ones; what only one has is never "equal".
TEST_F(CompareCommand, StackedExpertsAgainstSingleOnes) {
  ASSERT_EQ(run_cli({"synth", "qwen3.5-moe-tiny", path("stacked"), "--quiet"}).exit_code, 0);
  const std::vector<std::string> command = {"quantize",      path("stacked"), path("single"),
                                            "--input-scale", "1.0",           "--quiet"};
  ASSERT_EQ(run_cli(command).exit_code, 0);
  const Json json = run_json({"compare", path("stacked"), path("single")});
  EXPECT_EQ(json["only_in_a"], 0) << json["names_only_in_a"];
  EXPECT_EQ(json["different"], 3 * 4 * 16) << "gate, up and down of each expert";
  for (const Json& module : json["modules"]) EXPECT_GT(module["snr_db"].get<double>(), 15) << module;

  const CliResult apart = run_cli({"compare", path("single"), path("stacked")});
  EXPECT_NE(apart.out.find("192 modules with other values"), std::string::npos) << apart.out;
}

TEST_F(CompareCommand, TheCastAndTheCopyHaveTheSourcesValues) {
  const std::string source = tiny_checkpoint().string();
  quantize(source, "cast", "cast");
  ASSERT_EQ(run_cli({"dequantize", source, path("bf16"), "--quiet"}).exit_code, 0);
  const Json cast = run_json({"compare", source, path("cast")});
  expect_no_difference(cast);
  EXPECT_GT(cast["equal_values"], 0);
  EXPECT_EQ(cast["only_in_b"], cast["equal_values"]);  // an input_scale for each that was cast
  expect_no_difference(run_json({"compare", source, path("bf16")}));
  expect_no_difference(run_json({"compare", path("bf16"), path("cast")}));
  const Json itself = run_json({"compare", source, source});
  EXPECT_EQ(itself["equal_values"], 0);
  EXPECT_TRUE(itself["modules"].empty());
}

// Within 0.01 dB of the definition in double.
void expect_right_ratios(const std::string& a, const std::string& b, const Json& json) {
  const Checkpoint left = Checkpoint::open(a, system_files()), right = Checkpoint::open(b, system_files());
  size_t compared = 0;
  for (const Json& module : json["modules"]) {
    if (module["format_b"] != "NVFP4" || compared++ % 16 != 0) continue;
    const std::string name = module["name"];
    EXPECT_NEAR(module["snr_db"].get<double>(), snr_db(values_of(left, name), values_of(right, name)), 0.01);
  }
  EXPECT_GT(compared, 0);
}

TEST_F(CompareCommand, RequantizedExpertsComeWithTheirRatio) {
  SKIP_WITHOUT_SHARED_MODEL(source, "tiny-v4");
  quantize(source.string(), "max", "max");
  const Json json = run_json({"compare", source.string(), path("max")});
  EXPECT_EQ(json["different"], 6 * 16 * 3);
  expect_right_ratios(source.string(), path("max"), json);
  const CliResult text = run_cli({"compare", source.string(), path("max"), "--quiet"});
  EXPECT_THAT(text.out, HasSubstr("288 modules with other values"));
  EXPECT_THAT(text.out, HasSubstr("layers.*.ffn.experts.*.w1: MXFP4 -> NVFP4, 96 different"));
}

// Layer 2's experts as ModelOpt wrote them, by one of its two methods, as a checkpoint of their own.
void write_modelopt_layer(const fs::path& file, const std::string& method, const std::string& to) {
  const std::string bytes = read_file(file);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const Json header = Json::parse(bytes.substr(8, header_bytes));
  std::vector<Tensor> tensors;
  std::string data;
  for (const auto& [name, entry] : header.items()) {
    if (!name.starts_with(method + "/")) continue;
    const uint64_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    tensors.push_back({.name = name.substr(method.size() + 1),
                       .dtype = parse_dtype(entry["dtype"].get<std::string>()).value(),
                       .shape = entry["shape"].get<Shape>(),
                       .offset = data.size(),
                       .size_bytes = end - begin});
    data += bytes.substr(8 + header_bytes + begin, end - begin);
  }
  fs::create_directories(to);
  write_file(to + "/model.safetensors", write_safetensors_header(tensors, {}) + data);
  write_file(to + "/config.json", "{}");
}

// It answers who requantized what: ModelOpt's cast has the source's values, its max our max's bytes.
TEST_F(CompareCommand, ReadsWhatModelOptWrote) {
  SKIP_WITHOUT_SHARED_MODEL(source, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt, "tiny-v4-modelopt");
  for (const char* method : {"cast", "max"})
    write_modelopt_layer(modelopt / "layer2.safetensors", method, path(std::string("modelopt-") + method));
  const Json cast = run_json({"compare", source.string(), path("modelopt-cast")});
  EXPECT_EQ(cast["equal_values"], 16 * 3);
  EXPECT_EQ(cast["different"], 0);
  const Json max = run_json({"compare", source.string(), path("modelopt-max")});
  EXPECT_EQ(max["different"], 16 * 3);
  expect_right_ratios(source.string(), path("modelopt-max"), max);
  quantize(source.string(), "max", "max");
  const Json ours = run_json({"compare", path("modelopt-max"), path("max")});
  EXPECT_EQ(ours["equal_bytes"], 16 * 3);
  for (const Json& module : ours["modules"]) EXPECT_THAT(module["name"], ::testing::EndsWith("input_scale"));
}

TEST_F(CompareCommand, WrongInputIsOneError) {
  const std::string source = tiny_checkpoint().string();
  for (const auto& [other, part] : {std::pair(path("missing"), "there is no such folder"),
                                    {source + "/config.json", "is not a folder"}}) {
    const CliResult result = run_cli({"compare", source, other, "--quiet"});
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(result.err, HasSubstr(part));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace nibblecast::testing
