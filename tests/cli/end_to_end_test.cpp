// The whole way on a synthesized v4-tiny checkpoint: plan, calibrate, quantize, verify, inspect.
#include <set>

#include "calibration/amax_file.h"
#include "run_cli.h"
#include "sanitizers.h"

namespace nibblecast::testing {
namespace {

class EndToEnd : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }
  std::string texts() const { return write_texts(folder_.path()).string(); }

  // An amax file calibrated on texts().
  std::string amax() {
    run_json({"calibrate", source(), "--calib", texts(), "-o", path("amax.safetensors"), "--quiet"});
    return path("amax.safetensors");
  }

 private:
  TemporaryFolder folder_;
};

void expect_same(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto left = folder_contents(a), right = folder_contents(b);
  for (const auto& [name, content] : left) {
    if (name == "nibblecast.json" || name.starts_with("report.")) continue;  // times
    ASSERT_TRUE(right.contains(name)) << name;
    EXPECT_TRUE(content == right.at(name)) << name << " differs";
  }
  EXPECT_EQ(left.size(), right.size());
}

TEST_F(EndToEnd, CalibratedQuantizeIsVerifiedAndInspected) {
  const Json plan = run_json({"plan", source(), path("out"), "--calib", texts()});
  EXPECT_FALSE(std::filesystem::exists(path("out")));
  const Json made = run_json({"quantize", source(), path("out"), "--calib", texts(), "--quiet"});
  EXPECT_EQ(made["blocks"]["total"], made["blocks"]["lossless"]);
  EXPECT_FALSE(made["source"].contains("shards"));

  uint64_t shard_bytes = 0;
  for (const Json& shard : plan["output"]["shards"]) {
    EXPECT_EQ(
        std::filesystem::file_size(std::filesystem::path(path("out")) / shard["name"].get<std::string>()),
        shard["bytes"]);
    shard_bytes += shard["bytes"].get<uint64_t>();
  }
  EXPECT_EQ(shard_bytes, plan["output"]["file_bytes"]);
  uint64_t all_bytes = 0;
  for (const auto& [name, content] : folder_contents(path("out"))) all_bytes += content.size();
  EXPECT_LE(all_bytes, plan["disk"]["needed"].get<uint64_t>());

  const Json verified = run_json({"verify", source(), path("out"), "--quiet"});
  EXPECT_EQ(verified["ok"], true) << verified["problems"];
  EXPECT_EQ(verified["blocks"], made["blocks"]["total"]);
  EXPECT_EQ(verified["identical_blocks"], verified["blocks"]);

  const Json seen = run_json({"inspect", path("out")});
  EXPECT_EQ(seen["tensors"], plan["output"]["tensors"]);
  EXPECT_EQ(seen["bytes"], plan["output"]["bytes"]);
  EXPECT_TRUE(seen["expert_formats"].contains("NVFP4"));
  EXPECT_FALSE(seen["expert_formats"].contains("MXFP4"));
  EXPECT_TRUE(run_json({"inspect", source()})["expert_formats"].contains("MXFP4"));
}

TEST_F(EndToEnd, InspectShowsTheSameValuesOfSourceAndOutput) {
  const Json made = run_json({"quantize", source(), path("out"), "--amax", amax(), "--quiet"});
  const std::string name = "layers.0.ffn.experts.1.w2";
  const Json from = run_json({"inspect", source(), "--tensor", name});
  const Json to = run_json({"inspect", path("out"), "--tensor", name + ".weight"});
  EXPECT_EQ(from["weight_format"], "MXFP4");
  EXPECT_EQ(to["weight_format"], "NVFP4");
  EXPECT_GT(to["input_scale"].get<double>(), 0);
  Json joined = to["blocks"][0]["values"];
  for (const Json& value : to["blocks"][1]["values"]) joined.push_back(value);
  EXPECT_EQ(from["blocks"][0]["values"], joined);
  EXPECT_EQ(run_json({"inspect", source(), "--tensor", "layers.0.attn.wq_a"})["weight_format"], "FP8 blocks");
  EXPECT_EQ(run_json({"inspect", source(), "--tensor", "norm.weight"})["values"]["not_finite"], 0);
}

TEST_F(EndToEnd, InspectShowsCoverageAndOutliersOfAnAmaxFile) {
  AmaxFile file{.metadata = {{"layers", "4"}}, .layers = {{}, {}, {}}};
  for (uint64_t layer = 0; layer < 3; ++layer) {
    LayerAmax& one = file.layers[layer];
    one.layer = layer;
    one.taps = {{"attn.in", {layer == 0 ? 90.0f : 5.0f}},
                {"experts.in", std::vector<float>(8, 2)},
                {"experts.mid", std::vector<float>(8, 3)}};
  }
  file.layers[1].taps["experts.in"][3] = file.layers[1].taps["experts.mid"][3] = 0;
  file.layers[2].taps["experts.in"][5] = 40;
  file.layers[2].taps["experts.mid"][6] = 1e-3f;
  file.layers[2].tokens = {9, 8, 7, 6, 5, 4, 3, 2};
  write_amax(system_files(), path("shown.safetensors"), file);
  const CliResult text = run_cli({"inspect", path("shown.safetensors")});
  ASSERT_EQ(text.exit_code, 0) << text.err;
  for (const char* line :
       {"coverage     3 of 4 layers; 1 experts without tokens, in 1 layers", "1 without tokens: 3",
        "outliers     3 values", "layer 2 expert 6 experts.mid: 0.001, 0.000333 times the median",
        "layer 2 expert 5 experts.in: 40, 20 times the median", "layer 0 attn.in: 90, 18 times the median"}) {
    EXPECT_NE(text.out.find(line), std::string::npos) << line << " is not in\n" << text.out;
  }
  const Json json = run_json({"inspect", path("shown.safetensors")});
  EXPECT_EQ(json["metadata"]["layers"], Json("4"));
  EXPECT_EQ(json["layers"][1]["experts_without_tokens"], Json::array({3}));
  EXPECT_EQ(json["layers"][2]["tokens"]["least"], 2);
  EXPECT_EQ(json["layers"][0]["tokens"], Json());
  ASSERT_EQ(json["outliers"].size(), 3u);
  EXPECT_EQ(json["outliers"][1]["module"], Json("expert 5 experts.in"));
  EXPECT_EQ(json["outliers"][1]["layer"], 2);
}

TEST_F(EndToEnd, AConstantInputScaleNeedsNoCalibration) {
  run_json({"quantize", source(), path("out"), "--input-scale", "0.25", "--quiet"});
  for (const char* name : {"layers.0.ffn.experts.1.w2", "layers.2.ffn.experts.0.w3"}) {
    const Json seen = run_json({"inspect", path("out"), "--tensor", std::string(name) + ".weight"});
    EXPECT_EQ(seen["input_scale"].get<double>(), 0.25);
  }
  EXPECT_EQ(run_json({"verify", source(), path("out"), "--quiet"})["ok"], true);
  // The same weights, another scale: what the record says is what is demanded.
  const std::filesystem::path record = std::filesystem::path(path("out")) / "nibblecast.json";
  Json document = Json::parse(read_text(system_files(), record, 1 << 30));
  EXPECT_EQ(document["options"]["input_scale"], "0.25");
  document["options"]["input_scale"] = "0.5";
  write_text_durably(system_files(), record, document.dump());
  EXPECT_EQ(run_cli({"verify", source(), path("out"), "--quiet"}).exit_code, 6);
  document["attempts"] = Json::array({Json{{"began", 3}}});
  write_text_durably(system_files(), record, document.dump());
  EXPECT_EQ(run_cli({"status", path("out")}).exit_code, 3);
  EXPECT_EQ(run_cli({"quantize", source(), path("two"), "--input-scale", "0"}).exit_code, 2);
  EXPECT_EQ(run_cli({"quantize", source(), path("two"), "--input-scale", "1", "--amax", "x"}).exit_code, 2);
}

TEST_F(EndToEnd, AConstantInputScaleWithTextsIsStillTheConstant) {
  run_json({"quantize", source(), path("out"), "--input-scale", "1", "--calib", texts(), "--quiet"});
  const Json seen = run_json({"inspect", path("out"), "--tensor", "layers.0.ffn.experts.1.w1.weight"});
  EXPECT_EQ(seen["input_scale"].get<double>(), 1);
  EXPECT_EQ(run_json({"verify", source(), path("out"), "--quiet"})["ok"], true);
}

TEST_F(EndToEnd, SavedAmaxGivesTheSameWeightsAndScales) {
  const std::string calib = texts();
  run_json({"quantize", source(), path("a"), "--calib", calib, "--save-amax", path("saved.safetensors"),
            "--quiet"});
  run_json({"quantize", source(), path("b"), "--amax", path("saved.safetensors"), "--quiet"});
  EXPECT_EQ(read_file(path("saved.safetensors")), read_file(amax()));
  EXPECT_EQ(read_file(path("saved.safetensors")), read_file(path("a") + "/calibration/amax.safetensors"));
  for (const auto& [name, content] : folder_contents(path("a"))) {
    if (name.ends_with(".safetensors") && !name.starts_with("calibration/")) {
      EXPECT_TRUE(content == read_file(path("b") + "/" + name)) << name;
    }
  }
  const Json seen = run_json({"inspect", path("saved.safetensors")});
  EXPECT_EQ(seen["file_format"], "nibblecast.amax/2");
  EXPECT_GT(seen["layers"][0]["taps"]["experts.in"]["max"].get<double>(), 0);
}

TEST_F(EndToEnd, BytesDoNotDependOnThreadsOrMemory) {
  const std::string calib = texts();
  run_json(
      {"quantize", source(), path("one"), "--calib", calib, "--threads", "1", "--memory", "8G", "--quiet"});
  const Json plan = run_json({"plan", source(), "--calib", calib, "--threads", "2", "--memory", "300M"});
  run_json(
      {"quantize", source(), path("two"), "--calib", calib, "--threads", "2", "--memory", "300M", "--quiet"});
  EXPECT_LT(plan["memory"]["peak"].get<uint64_t>(), 300u << 20);
  expect_same(path("one"), path("two"));
}

TEST_F(EndToEnd, ThePeakOfMemoryIsBelowThePlans) {
  SKIP_WITH_SANITIZERS();
  const Json plan = run_json({"plan", source(), path("out"), "--calib", texts()});
  const Json made = run_json({"quantize", source(), path("out"), "--calib", texts(), "--quiet"});
  EXPECT_LE(made["peak_memory_bytes"].get<uint64_t>(), plan["memory"]["peak"].get<uint64_t>());
}

TEST_F(EndToEnd, PackedRowsComeFromStandardInput) {
  const std::string text(4000, 'x');
  const CliResult result =
      run_cli({"calibrate", source(), "--calib", "-", "--calib-rows", "packed", "--calib-size", "2",
               "--calib-seq", "64", "-o", path("amax.safetensors"), "--json", "--quiet"},
              text);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["activations"]["rows"], 2);
  EXPECT_EQ(json["activations"]["tokens"], 128);
}

TEST_F(EndToEnd, FewTokensAndUnusedTextsAreSaid) {
  std::string words;
  for (int i = 0; i < 2000; ++i) words += "word " + std::to_string(i) + ", ";
  write_file(path("plain.txt"), words);
  const auto warned = [&](const std::vector<std::string>& options, const std::string& part) {
    std::vector<std::string> arguments = {"plan", source(), "--calib"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const CliResult result = run_cli(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE((result.out + result.err).find(part), std::string::npos) << result.out << result.err;
    arguments.emplace_back("--strict");
    EXPECT_EQ(run_cli(arguments).exit_code, 5);
  };
  warned({path("plain.txt")}, "--calib-rows packed uses them all");
  warned({path("plain.txt"), "--calib-size", "1"}, "512 tokens are few to calibrate on");
  warned({path("plain.txt"), "--calib-rows", "packed", "--calib-size", "1", "--calib-seq", "9000"},
         "beyond the 8192 positions");
  EXPECT_EQ(run_cli({"plan", source(), "--calib", path("plain.txt"), "--calib-rows", "packed", "--calib-size",
                     "4", "--strict"})
                .exit_code,
            0);
}

TEST_F(EndToEnd, TextsInAnyFormGiveTheSameRows) {
  write_file(path("a.jsonl"),
             "{\"text\": \"one two three, four five six seven eight nine ten\"}\n{\"text\": \"b\"}\n");
  write_file(path("a.json"), "[{\"text\": \"one two three, four five six seven eight nine ten\"},\n \"b\"]");
  write_file(path("a.csv"), "id,body\n1,\"one two three, four five six seven eight nine ten\"\n2,b\n");
  const auto amax = [&](const std::string& name, std::vector<std::string> options) {
    options.insert(options.begin(),
                   {"calibrate", source(), "-o", path(name + ".amax"), "--quiet", "--calib", path(name)});
    run_json(options);
    return read_file(path(name + ".amax"));
  };
  const std::string lines = amax("a.jsonl", {});
  EXPECT_TRUE(amax("a.json", {}) == lines);
  EXPECT_TRUE(amax("a.csv", {"--calib-key", "body"}) == lines);
}

TEST_F(EndToEnd, TokenIdsNeedNoTokenizer) {
  std::filesystem::copy(tiny_checkpoint(), path("source"), std::filesystem::copy_options::recursive);
  std::filesystem::remove(path("source") + "/tokenizer.json");
  write_file(path("ids.jsonl"), "{\"input_ids\": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]}\n");
  const Json json =
      run_json({"calibrate", path("source"), "--calib", path("ids.jsonl"), "-o", path("amax"), "--quiet"});
  EXPECT_EQ(json["activations"]["tokens"], 16);
  const CliResult texts_too = run_cli({"calibrate", path("source"), "--calib", texts(), "-o", path("amax")});
  EXPECT_EQ(texts_too.exit_code, 3);
  EXPECT_NE(texts_too.err.find("there is no tokenizer"), std::string::npos) << texts_too.err;
  // A tokenizer that cannot be read matters to texts only; counts stand with their names.
  write_file(path("source") + "/tokenizer.json", "{");
  const Json again =
      run_json({"calibrate", path("source"), "--calib", path("ids.jsonl") + ":1," + path("ids.jsonl") + ":1",
                "-o", path("again"), "--quiet"});
  EXPECT_EQ(again["activations"]["tokens"], 32);
  EXPECT_EQ(run_cli({"calibrate", path("source"), "--calib", texts(), "-o", path("amax")}).exit_code, 3);
}

TEST_F(EndToEnd, TextOutputSaysWhatMatters) {
  const std::string calib = texts();
  const CliResult plan = run_cli({"plan", source(), "--calib", calib});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  for (const char* part :
       {"source ", "output ", "shards ", "memory ", "disk ", "time ", "bounds ", "vllm: loads it"}) {
    EXPECT_NE(plan.out.find(part), std::string::npos) << part;
  }
  const CliResult made = run_cli({"quantize", source(), path("out"), "--calib", calib});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_NE(made.out.find(" lossless"), std::string::npos) << made.out;
  EXPECT_NE(made.out.find("coverage"), std::string::npos) << made.out;
  EXPECT_NE(made.err.find("embedding: "), std::string::npos) << made.err;
  const CliResult verified = run_cli({"verify", source(), path("out"), "--quiet"});
  EXPECT_EQ(verified.exit_code, 0) << verified.out;
  EXPECT_EQ(verified.err, "");
  EXPECT_NE(verified.out.find("right: all"), std::string::npos) << verified.out;
}

// A run that fails midway leaves no checkpoint, and the same command finishes the job.
TEST_F(EndToEnd, AFailedRunGoesOn) {
  std::filesystem::copy(tiny_checkpoint(), path("source"), std::filesystem::copy_options::recursive);
  const Json scale = run_json({"inspect", source(), "--tensor", "layers.4.ffn.experts.7.w2.scale"});
  const std::string shard = path("source") + "/" + scale["shard"].get<std::string>();
  const std::string whole = read_file(shard);
  const auto time = std::filesystem::last_write_time(shard);
  std::string damaged = whole;
  damaged[scale["offset"].get<size_t>() + 3] = '\xff';
  write_file(shard, damaged);
  std::filesystem::last_write_time(shard, time);

  const std::vector<std::string> command = {"quantize", path("source"), path("out"),
                                            "--calib",  texts(),        "--quiet"};
  const CliResult failed = run_cli(command);
  EXPECT_EQ(failed.exit_code, 3);
  EXPECT_NE(failed.err.find("tensor \'layers.4.ffn.experts.7.w2.scale\': at byte " +
                            std::to_string(scale["offset"].get<size_t>() + 3)),
            std::string::npos)
      << failed.err;
  for (const auto& [name, content] : folder_contents(path("out"))) {
    EXPECT_TRUE(name.ends_with(".partial") || name.starts_with(".nibblecast/")) << name;
  }
  const CliResult as_source = run_cli({"plan", path("out")});
  EXPECT_EQ(as_source.exit_code, 3);
  EXPECT_NE(as_source.err.find("unfinished output"), std::string::npos) << as_source.err;

  // What was made of the damaged file must not be mixed with what another one gives, unless somebody says
  // that it is the same.
  write_file(shard, whole);
  const CliResult changed = run_cli(command);
  EXPECT_EQ(changed.exit_code, 5);
  EXPECT_NE(changed.err.find("was changed since this job began"), std::string::npos) << changed.err;
  std::filesystem::last_write_time(shard, time);
  const Json status = run_json({"status", path("out")});
  EXPECT_EQ(status["finished"], Json(false));
  EXPECT_EQ(status["layers"]["calibrated"], Json(4));
  EXPECT_EQ(run_cli({"plan", path("source"), path("out"), "--calib", texts()}).exit_code, 0);
  EXPECT_EQ(run_cli(command).exit_code, 0);
  EXPECT_EQ(run_json({"verify", path("source"), path("out"), "--quiet"})["ok"], true);
}

TEST_F(EndToEnd, VerifyNamesTheProblem) {
  run_json({"quantize", source(), path("out"), "--amax", amax(), "--quiet"});
  std::filesystem::remove(path("out") + "/hf_quant_config.json");
  const CliResult result = run_cli({"verify", source(), path("out"), "--quiet"});
  EXPECT_EQ(result.exit_code, 6);
  EXPECT_NE(result.out.find("hf_quant_config.json"), std::string::npos) << result.out;
  const CliResult json = run_cli({"verify", source(), path("out"), "--quiet", "--json"});
  EXPECT_EQ(json.exit_code, 6);
  EXPECT_EQ(Json::parse(json.out)["ok"], false);
}

}  // namespace
}  // namespace nibblecast::testing
