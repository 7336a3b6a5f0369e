// report.json's figures, and that the page takes the record's texts for data.
#include "pipeline/report.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "testing.h"

namespace nibblecast::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Tensor tensor(const std::string& name, Dtype dtype, Shape shape) {
  const uint64_t size = *stored_bytes(dtype, *element_count(shape));
  return {.name = name, .dtype = dtype, .shape = std::move(shape), .size_bytes = size};
}

// One expert matrix of 64 values, cast from MXFP4, and a norm of 8.
ReportInput small_input() {
  ReportInput input;
  input.destination = "out";
  input.record = Json::parse(R"({
    "version": "0.1.0", "command": "quantize", "command_line": "nibblecast quantize tiny out", "finished": "2026-11-30T10:00:00Z",
    "seconds": 2.5, "source": {"name": "tiny", "hub": null}, "options": {"engines": ["vllm"], "recipe_text": "long"},
    "activations": {"kind": "calibration", "rows": 2}, "blocks": {"total": 2, "lossless": 1, "zero": 0, "outside_window": 1},
    "outside_window": {"layers.0.ffn.experts.0.w1.weight": 1}, "relative_error": {}, "perplexity": {"value": 25.0, "tokens": 10},
    "bytes": {"read": 100, "written": 50}, "attempts": [],
    "layers": [{"layer": 0, "amax": {"experts.in": 4.0}, "bound": {"experts.in": 9.0}, "experts_without_tokens": [1]}]})");
  input.source = {tensor("layers.0.ffn.experts.0.w1.weight", Dtype::kI8, {2, 16}),
                  tensor("layers.0.ffn.experts.0.w1.scale", Dtype::kF8E8M0, {2, 1}),
                  tensor("norm.weight", Dtype::kBF16, {8})};
  input.output = {tensor("layers.0.ffn.experts.0.w1.weight", Dtype::kU8, {2, 16}),
                  tensor("layers.0.ffn.experts.0.w1.weight_scale", Dtype::kF8E4M3, {2, 2}),
                  tensor("layers.0.ffn.experts.0.w1.input_scale", Dtype::kF32, {}),
                  tensor("norm.weight", Dtype::kBF16, {8})};
  input.amax = AmaxFile{.metadata = {}, .layers = {LayerAmax{.layer = 0, .tokens = {7, 0}}}};
  input.input_scales[{0, "experts.in"}] = 0.5f;
  return input;
}

TEST(Report, HasTheFiguresOfRecordAndHeaders) {
  const Json report = report_document(small_input());
  EXPECT_EQ(report["figures"]["parameters"], 72);
  EXPECT_EQ(report["figures"]["source_bytes"], 32 + 2 + 16);
  EXPECT_EQ(report["figures"]["bytes"], 32 + 4 + 4 + 16);
  EXPECT_EQ(report["figures"]["bits_per_weight"], 8.0 * 56 / 72);
  EXPECT_EQ(report["figures"]["engines"], Json::array({"vLLM 0.33.0"}));
  EXPECT_EQ(report["blocks"]["lossless_share"], 0.5);
  EXPECT_EQ(report["sizes"][0]["kind"], "routed experts");
  EXPECT_EQ(report["sizes"][0]["source_bytes"], 34);
  EXPECT_EQ(report["sizes"][1]["kind"], "norms");
  EXPECT_EQ(report["experts"]["layers"][0]["tokens"], Json::array({7, 0}));
  EXPECT_EQ(report["experts"]["least_tokens"]["expert"], 1);
  EXPECT_EQ(report["layers"][0]["taps"]["experts.in"],
            Json::parse(R"({"amax": 4.0, "bound": 9.0, "input_scale": 0.5})"));
  EXPECT_EQ(report["verdict"]["text"],
            "1 of 2 blocks have exactly the source's values, 1 were requantized; 1 expert saw no token.");
  EXPECT_EQ(report["verdict"]["good"], false);
  EXPECT_EQ(report["commands"]["verify"], "nibblecast verify tiny out");
  EXPECT_FALSE(report["options"].contains("recipe_text"));
  EXPECT_TRUE(report["requantized"].is_null());
  EXPECT_TRUE(report["evaluation"].is_null());
}

TEST(Report, SumsUpWhatWasQuantizedByLayerAndKind) {
  ReportInput input = small_input();
  input.record["relative_error"] = {{"layers.0.attn.wq_a.weight", 0.125},
                                    {"layers.0.attn.wkv.weight", 0.375}};
  const Json found = report_document(input)["requantized"];
  EXPECT_EQ(found["weights"], 2);
  EXPECT_EQ(found["largest"], 0.375);
  EXPECT_EQ(
      found["layers"],
      Json::parse(R"([{"layer": 0, "kind": "attention", "weights": 2, "mean": 0.25, "largest": 0.375}])"));
  EXPECT_EQ(found["worst"][0]["tensor"], "layers.0.attn.wkv.weight");
}

TEST(Report, HasBlockScalesByKindAndTimesByStage) {
  ReportInput input = small_input();
  EXPECT_TRUE(report_document(input)["block_scales"].is_null());
  EXPECT_TRUE(report_document(input)["run"]["times"].is_null()) << "records without stages";
  input.block_scales["attention"] = {.blocks = 10};
  input.block_scales["routed experts"] = {
      .blocks = 9, .read = 6, .zero = 1, .stored = {{-6, 2}, {0, 3}}, .exponents = {{-4, 5}}};
  input.record["stages"] = Json::parse(R"([
    {"stage": "layer 0", "seconds": 4.0, "read_wait": 1.0, "forward": 1.5, "make": 0.5, "write_wait": 0.25, "save": 0.25, "bus": 2.0, "device": 3.0},
    {"stage": "end", "seconds": 1.0, "read_wait": 0.0, "forward": 0.0, "make": 0.0, "write_wait": 1.0, "save": 0.0, "bus": 0.0, "device": 0.0}])");
  const Json report = report_document(input);
  EXPECT_EQ(report["block_scales"],
            Json::parse(R"({"blocks": 19, "read": 6, "kinds": [{"kind": "routed experts",
    "blocks": 9, "read": 6, "zero": 1, "stored": [{"exponent": -6, "blocks": 2}, {"exponent": 0, "blocks": 3}],
    "exponents": [{"exponent": -4, "blocks": 5}]}]})"));
  EXPECT_EQ(report["run"]["times"],
            Json::parse(R"({"seconds": 5.0, "read_wait": 1.0, "forward": 1.5, "make": 0.5,
    "write_wait": 1.25, "save": 0.25, "bus": 2.0, "device": 3.0, "other": 0.5})"));
  EXPECT_EQ(report["run"]["stages"], input.record["stages"]);
}

TEST(Report, KeepsAnEvaluationWithoutItsFolders) {
  ReportInput input = small_input();
  input.evaluation =
      Json::parse(R"({"ok": true, "tokens": 3, "models": [{"path": "/home/a/tiny", "perplexity": 2.0}]})");
  const Json report = report_document(input);
  EXPECT_EQ(report["evaluation"],
            Json::parse(R"({"tokens": 3, "models": [{"path": "tiny", "perplexity": 2.0}]})"));
}

TEST(Report, RefusesARecordOfAnotherShape) {
  for (const auto& [key, value] :
       {std::pair("blocks", Json::parse(R"({"total": -1})")), std::pair("layers", Json::parse("[3]")),
        std::pair("source", Json("tiny")), std::pair("seconds", Json("long"))}) {
    ReportInput input = small_input();
    input.record[key] = value;
    EXPECT_THROW(report_document(input), Error) << key;
  }
}

TEST(Report, TakesTextsForData) {
  ReportInput input = small_input();
  input.record["source"]["name"] = "</script><script>alert(1)</script><!--";
  const std::string page = report_page(report_document(input));
  EXPECT_THAT(page, Not(HasSubstr("alert(1)</script>")));
  EXPECT_THAT(page, HasSubstr("\\u003c/script>\\u003cscript>alert(1)"));
  EXPECT_LT(page.size(), 400'000u);
}

TEST(Report, WritesOverReportsOnly) {
  FileSystem& files = system_files();
  const TemporaryFolder folder;
  const std::filesystem::path page = folder.path() / "report.html", figures = folder.path() / "report.json";
  const Json report = report_document(small_input());
  EXPECT_EQ(write_report(files, page, report), figures);
  EXPECT_EQ(write_report(files, page, report), figures);
  EXPECT_EQ(parse_json(read_text(files, figures, 1 << 20), ""), report);
  write_text_durably(files, page, "<html>mine</html>");
  EXPECT_THROW(write_report(files, page, report), Error);
  std::filesystem::remove(page);
  write_text_durably(files, figures, "{}");
  EXPECT_THROW(write_report(files, page, report), Error);
  std::filesystem::remove(figures);
  write_text_durably(files, folder.path() / "config.json", "{}");
  EXPECT_THROW(write_report(files, page, report), Error);
}

}  // namespace
}  // namespace nibblecast::testing
