// `evaluate`: perplexity against transformers', divergences that are known, and what is refused.
#include <gmock/gmock.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <thread>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Evaluate : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  void quantize(const std::string& source, const std::string& name, std::vector<std::string> options) const {
    std::vector<std::string> command = {"quantize", source, path(name), "--engine", "none", "--quiet"};
    command.insert(command.end(), options.begin(), options.end());
    const CliResult result = run_cli(command);
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }

  // Rows of ids, as many and as long as asked for, of a vocabulary of 512.
  std::string rows(size_t count, size_t length) const {
    std::string text;
    for (size_t row = 0; row < count; ++row) {
      Json ids = Json::array();
      for (size_t at = 0; at < length; ++at) ids.push_back((row * 131 + at * 17 + at * at) % 512);
      text += Json{{"input_ids", ids}}.dump() + "\n";
    }
    write_file(path("rows.jsonl"), text);
    return path("rows.jsonl");
  }

  Json evaluate(std::vector<std::string> models, const std::string& text,
                std::vector<std::string> options = {}) const {
    std::vector<std::string> command = {"evaluate"};
    command.insert(command.end(), models.begin(), models.end());
    command.insert(command.end(), {"--text", text, "--text-rows", "docs", "--compute-dtype", "float32"});
    command.insert(command.end(), options.begin(), options.end());
    return run_json(command);
  }

  void expect_refused(const std::vector<std::string>& command, int exit_code, const std::string& part) const {
    const CliResult result = run_cli(command);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_THAT(result.err, HasSubstr(part));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "");
  }

 private:
  TemporaryFolder folder_;
};

void expect_no_divergence(const Json& model) {
  for (const char* key : {"kl_mean", "kl_stderr", "kl_median", "kl_p999", "kl_max", "logprob_delta_rms"})
    EXPECT_EQ(model["against_source"][key], 0.0) << key;
  EXPECT_EQ(model["against_source"]["top1_agreement"], 1.0);
  EXPECT_EQ(model["against_source"]["top5_agreement"], 1.0);
  for (const Json& layer : model["layers"]) {
    for (const char* key : {"stream_error", "mixer_error", "ffn_error"})
      EXPECT_EQ(layer[key], 0.0) << key << " " << layer["layer"];
    EXPECT_TRUE(layer["routing_moved"].is_null() || layer["routing_moved"] == 0.0) << layer;
    EXPECT_EQ(layer["stream_cosine"], 1.0);
  }
}

TEST_F(Evaluate, OneCheckpointHasItsPerplexityAndNothingElse) {
  const Json json = evaluate({tiny_checkpoint().string()}, rows(3, 20));
  EXPECT_EQ(json["rows"], 3);
  EXPECT_EQ(json["tokens"], 57);
  ASSERT_EQ(json["models"].size(), 1);
  const Json& model = json["models"][0];
  EXPECT_FALSE(model.contains("against_source"));
  double sum = 0;
  for (const Json& row : model["rows"]) {
    EXPECT_EQ(row["tokens"], 19);
    sum += row["nll_sum"].get<double>();
  }
  EXPECT_DOUBLE_EQ(model["nll_mean"], sum / 57);
  EXPECT_DOUBLE_EQ(model["perplexity"], std::exp(sum / 57));
}

TEST_F(Evaluate, WhatHasTheSourcesValuesHasItsDistribution) {
  const std::string source = tiny_checkpoint().string(), text = rows(4, 40);
  quantize(source, "cast", {"--input-scale", "1.0"});
  for (const char* dtype : {"float32", "bfloat16"}) {
    const CliResult result = run_cli({"evaluate", source, source, path("cast"), "--text", text, "--text-rows",
                                      "docs", "--compute-dtype", dtype, "--activations", "none", "--json"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const Json json = Json::parse(result.out);
    ASSERT_EQ(json["models"].size(), 3);
    expect_no_divergence(json["models"][1]);
    expect_no_divergence(json["models"][2]);
    EXPECT_EQ(json["models"][0]["nll_mean"], json["models"][2]["nll_mean"]);
  }
}

// What rounds no value of a weight may still lose by rounding activations.
TEST_F(Evaluate, ActivationsAreRoundedByDefault) {
  const std::string source = tiny_checkpoint().string(), text = rows(4, 40);
  quantize(source, "cast", {"--calib", text});
  const Json with = evaluate({source, path("cast")}, text);
  EXPECT_GT(with["models"][1]["against_source"]["kl_mean"], 0.0);
  EXPECT_GT(with["models"][1]["layers"][0]["ffn_error"], 0.0);
  EXPECT_EQ(with["models"][1]["layers"][0]["mixer_error"], 0.0);  // the experts alone have scales
  EXPECT_EQ(with["models"][0]["rounded_blocks"], 0);
  EXPECT_GT(with["models"][1]["rounded_blocks"], 0);
  quantize(source, "small", {"--input-scale", "0.00001"});
  const Json small = evaluate({source, path("small")}, text);
  EXPECT_GT(small["models"][1]["saturated_blocks"].get<uint64_t>(),
            with["models"][1]["saturated_blocks"].get<uint64_t>());
  expect_no_divergence(evaluate({source, path("cast")}, text, {"--activations", "none"})["models"][1]);
}

// Zeros in place of a tensor.
void fill(const std::string& folder, const std::string& name, char byte) {
  const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
  const Tensor& tensor = checkpoint.at(name);
  const fs::path file = fs::path(folder) / checkpoint.shards()[tensor.shard].name;
  std::string bytes = read_file(file);
  std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(tensor.offset), tensor.size_bytes, byte);
  write_file(file, bytes);
}
void blank(const std::string& folder, const std::string& name) { fill(folder, name, '\0'); }

TEST_F(Evaluate, ErrorsPointAtTheLayerThatIsDamaged) {
  const std::string source = tiny_checkpoint().string();
  fs::copy(source, path("damaged"), fs::copy_options::recursive);
  blank(path("damaged"), "layers.1.attn.wo_b.weight");
  const Json json = evaluate({source, path("damaged")}, rows(3, 30));
  const Json& layers = json["models"][1]["layers"];
  EXPECT_EQ(layers[0]["stream_error"], 0.0);
  EXPECT_EQ(layers[0]["routing_moved"], 0.0);
  EXPECT_GT(layers[1]["stream_error"], 0.0);
  EXPECT_EQ(layers[1]["mixer_error"], 1.0);  // nothing is left of it
  EXPECT_GT(json["models"][1]["against_source"]["kl_mean"], 0.0);
}

TEST_F(Evaluate, ReadsEveryCheckpointOnce) {
  const std::string source = tiny_checkpoint().string();
  const Json json = evaluate({source, source}, rows(2, 20));
  const Checkpoint checkpoint = Checkpoint::open(source, system_files());
  uint64_t bytes = 0;
  for (const Tensor& tensor : checkpoint.tensors())
    if (!tensor.name.starts_with("mtp.")) bytes += tensor.size_bytes;
  EXPECT_EQ(json["models"][0]["bytes"]["read"], bytes);
  EXPECT_EQ(json["models"][1]["bytes"]["read"], bytes);
  EXPECT_EQ(json["device"]["layer_seconds"].size(), json["models"][1]["layers"].size());
}

// Every rule has the figures that a checkpoint with those scales has, and costs no second read.
TEST_F(Evaluate, InputScalesAreComparedInOnePass) {
  const std::string source = tiny_checkpoint().string(), text = rows(4, 40);
  quantize(source, "own", {"--calib", text});
  quantize(source, "one", {"--input-scale", "1.0"});
  const Json json = evaluate({source, path("own"), path("one")}, text,
                             {"--input-scale-sweep", "--input-scales", "own,/16"});
  const Json &own = json["models"][1], &one = json["models"][2];
  std::vector<std::string> names;
  for (const Json& scale : own["input_scales"]) names.push_back(scale["input_scale"]);
  EXPECT_THAT(names, ::testing::ElementsAre("calibrated", "p99.99", "1.0", "x2", "/2", "/4", "own", "/16"));
  EXPECT_EQ(own["input_scales"][0]["against_source"], own["against_source"]);
  EXPECT_EQ(own["input_scales"][2]["against_source"], one["against_source"]);
  EXPECT_EQ(own["input_scales"][6]["against_source"], own["against_source"]) << "the layer has one scale";
  EXPECT_GT(own["input_scales"][7]["saturated_blocks"], own["input_scales"][0]["saturated_blocks"]);
  EXPECT_NE(own["input_scales"][1]["against_source"], own["against_source"]);
  for (const char* alone : {"own", "one"})
    EXPECT_EQ(evaluate({source, path(alone)}, text)["models"][1]["against_source"],
              json["models"][std::string(alone) == "own" ? 1 : 2]["against_source"]);
  EXPECT_EQ(own["bytes"]["read"], evaluate({source, path("own")}, text)["models"][1]["bytes"]["read"]);
  EXPECT_EQ(one["input_scales"].size(), names.size());
}

TEST_F(Evaluate, InputScalesThatMeanNothingAreRefused) {
  const std::string source = tiny_checkpoint().string(), text = rows(2, 20);
  expect_refused(
      {"evaluate", source, source, "--text", text, "--text-rows", "docs", "--input-scale-sweep", "--quiet"},
      3, "has no linear with an input_scale");
  for (const char* list : {"twice", "none", "calibrated,,x2"}) {
    const CliResult result =
        run_cli({"evaluate", source, source, "--text", text, "--input-scales", list, "--quiet"});
    EXPECT_EQ(result.exit_code, 2) << list;
    EXPECT_THAT(result.err, HasSubstr("is no rule for input scales"));
  }
}

TEST_F(Evaluate, TheTextNamesWhatPeopleLookFor) {
  const std::string source = tiny_checkpoint().string();
  const CliResult result =
      run_cli({"evaluate", source, source, "--text", rows(2, 20), "--text-rows", "docs", "--quiet"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* part : {"2 rows, 38 tokens predicted", "perplexity", "KL           0 +- 0 nats a token",
                           "the source's in 100.00 %", "equal after every layer"})
    EXPECT_THAT(result.out, HasSubstr(part));
}

TEST_F(Evaluate, StackedExpertsHaveNoInputScales) {
  ASSERT_EQ(run_cli({"synth", "qwen3.5-moe-tiny", path("stacked"), "--quiet"}).exit_code, 0);
  quantize(path("stacked"), "single", {"--input-scale", "1.0"});
  const Json json = evaluate({path("stacked"), path("single")}, rows(2, 20));
  EXPECT_GT(json["models"][1]["against_source"]["kl_mean"].get<double>(), 0);
}

void kill_after(CliProcess& process, std::chrono::milliseconds time) {
  std::this_thread::sleep_for(time);
  process.signal(SIGKILL);
  process.wait();
}

// As soon as there is something to go on with, or at the end.
void wait_for(CliProcess& process, const std::string& state) {
  while (!process.ended() && !fs::exists(state)) {
  }
}

// Killed anywhere, it goes on with the same figures to the bit.
TEST_F(Evaluate, KilledItGoesOnWithTheSameFigures) {
  const std::string source = tiny_checkpoint().string(), texts = rows(4, 60);
  quantize(source, "max", {"--calib", texts, "--weight-method", "max"});
  const std::vector<std::string> command = {"evaluate", source,        path("max"), "--text",
                                            texts,      "--text-rows", "docs",      "-o",
                                            path(""),   "--quiet",     "--json"};
  const auto figures = [](const std::string& out) {
    Json json = Json::parse(out);
    for (const char* of_this_run : {"seconds", "bytes", "peak_memory_bytes", "device", "resumed_at_layer"})
      json.erase(of_this_run);
    for (Json& model : json["models"]) model.erase("bytes");
    return json;
  };
  const Json expected = figures(run_cli(command).out);
  std::vector<std::string> kept = command;
  kept.insert(kept.end(), {"--work-dir", path("work")});
  size_t resumed = 0;
  for (int attempt = 0; attempt < 30; ++attempt) {
    CliProcess process(kept);
    if (attempt % 2 == 0) wait_for(process, path("work/evaluation.json"));
    kill_after(process, std::chrono::milliseconds(attempt % 2 == 0 ? attempt / 2 : 5 + 7 * attempt));
    const CliResult finished = run_cli(kept);
    ASSERT_EQ(finished.exit_code, 0) << finished.err;
    EXPECT_EQ(figures(finished.out), expected) << attempt;
    resumed += Json::parse(finished.out)["resumed_at_layer"] != 0;
    EXPECT_FALSE(fs::exists(path("work/evaluation.json")));
  }
  EXPECT_GT(resumed, 0u) << "no kill came between two layers";
}

TEST_F(Evaluate, AnothersStateIsRefusedAndADamagedOneBegunAgain) {
  const std::string source = tiny_checkpoint().string(), texts = rows(4, 60);
  const std::vector<std::string> command = {"evaluate", source,    "--text", texts,        "--text-rows",
                                            "docs",     "--quiet", "--json", "--work-dir", path("work")};
  const std::string state = path("work/evaluation.json");
  const auto stopped = [&] {  // with a state
    while (!fs::exists(state)) {
      CliProcess process(command);
      wait_for(process, state);
      kill_after(process, {});
    }
  };
  stopped();
  std::vector<std::string> other = command;
  other.insert(other.end(), {"--compute-dtype", "float32"});
  const CliResult refused = run_cli(other);
  EXPECT_EQ(refused.exit_code, 5);
  EXPECT_THAT(refused.out, HasSubstr("state of another evaluation"));
  for (const auto& entry : fs::directory_iterator(path("work/model-0")))
    write_file(entry.path(), std::string(fs::file_size(entry.path()), 'x'));
  const Json again = run_json(command);
  EXPECT_EQ(again["resumed_at_layer"], 0);
  write_file(state, "{}");
  EXPECT_EQ(run_cli(command).exit_code, 5);
}

TEST_F(Evaluate, LogitsThatAreNoNumbersAreNoAgreement) {
  const std::string source = tiny_checkpoint().string();
  fs::copy(source, path("damaged"), fs::copy_options::recursive);
  fill(path("damaged"), "head.weight", '\xff');  // NaN
  std::vector<std::string> command = {"evaluate",    source, path("damaged"), "--text", rows(2, 20),
                                      "--text-rows", "docs", "--quiet",       "--json"};
  const CliResult result = run_cli(command);
  EXPECT_EQ(result.exit_code, 6);
  const Json json = Json::parse(result.out);
  EXPECT_THAT(json["errors"][0]["message"].get<std::string>(), HasSubstr("its logits are not finite"));
  EXPECT_TRUE(json["models"][0]["perplexity"].is_number());
  for (const char* key : {"kl_mean", "top1_agreement", "top5_agreement", "logprob_delta_mean"})
    EXPECT_TRUE(json["models"][1]["against_source"][key].is_null()) << key;
}

// Every block has a scale, the experts' an exponent of the source; parts of a stage are no longer than it.
void expect_scales_and_times(const Json& report) {
  const Json& scales = report["block_scales"];
  EXPECT_EQ(scales["read"], scales["blocks"]);
  ASSERT_EQ(scales["kinds"].size(), 1);
  const Json& kind = scales["kinds"][0];
  EXPECT_EQ(kind["kind"], "routed experts");
  EXPECT_EQ(kind["blocks"], 2 * report["blocks"]["total"].get<uint64_t>()) << "of 16, not of 32";
  for (const char* const powers : {"stored", "exponents"}) {
    uint64_t sum = kind["zero"];
    for (const Json& bin : kind[powers]) sum += bin["blocks"].get<uint64_t>();
    EXPECT_EQ(sum, kind["read"]) << powers;
  }
  const Json& run = report["run"];
  EXPECT_EQ(run["stages"][0]["stage"], "embedding");
  EXPECT_EQ(run["stages"].back()["stage"], "end");
  EXPECT_GT(run["times"]["forward"], 0.0);
  EXPECT_NEAR(run["times"]["seconds"].get<double>(), run["seconds"].get<double>(), 0.5);
  for (const Json& stage : run["stages"]) {
    double parts = 0;
    for (const char* part : {"read_wait", "forward", "make", "write_wait", "save"})
      parts += stage[part].get<double>();
    EXPECT_LE(parts, stage["seconds"].get<double>() + 0.01) << stage;
  }
}

// What it finds stands in the summary, the record, the card and the report of the output.
TEST_F(Evaluate, QuantizeEvaluatesItsOutput) {
  const std::string source = tiny_checkpoint().string(), texts = rows(3, 40);
  const std::vector<std::string> command = {"quantize", source,       path("out"), "--calib",
                                            texts,      "--evaluate", texts,       "--evaluate-seq",
                                            "40",       "--engine",   "none",      "--quiet"};
  const Json reply = run_json(command);
  const Json& found = reply["evaluation"]["models"][1]["against_source"];
  EXPECT_GT(found["kl_mean"].get<double>(), 0);
  EXPECT_TRUE(reply["evaluation"]["models"][1]["worst_tokens"][0]["token"].is_string());
  const Json record = Json::parse(read_file(path("out/nibblecast.json")));
  EXPECT_EQ(record["evaluation"]["models"][1]["against_source"], found);
  EXPECT_EQ(record["evaluation"]["models"][1]["path"], "out");
  const Json report = Json::parse(read_file(path("out/report.json")));
  EXPECT_EQ(report["evaluation"], record["evaluation"]);
  EXPECT_THAT(report["verdict"]["text"].get<std::string>(), HasSubstr("KL divergence"));
  expect_scales_and_times(report);
  EXPECT_THAT(read_file(path("out/report.html")), HasSubstr("nibblecast report"));
  EXPECT_THAT(read_file(path("out/README.md")), HasSubstr("- Against the source on 117 tokens"));
  EXPECT_EQ(run_cli({"verify", source, path("out"), "--quiet"}).exit_code, 0);
  const CliResult checksums = run_cli({"verify", "--checksums", path("out"), "--quiet"});
  EXPECT_EQ(checksums.exit_code, 0);
  EXPECT_THAT(checksums.out, ::testing::Not(HasSubstr("README"))) << "edited, it says";
  EXPECT_THAT(run_cli(command).out, HasSubstr("nothing to do"));
}

// Killed behind the output, the rest is made by the same command.
TEST_F(Evaluate, QuantizeEvaluatesAFinishedOutputToo) {
  const std::string source = tiny_checkpoint().string(), texts = rows(3, 40);
  quantize(source, "out", {"--calib", texts});
  EXPECT_TRUE(Json::parse(read_file(path("out/report.json")))["evaluation"].is_null());
  std::filesystem::remove(path("out/report.html"));
  quantize(source, "out", {"--calib", texts, "--evaluate", texts, "--evaluate-seq", "40"});
  EXPECT_FALSE(Json::parse(read_file(path("out/report.json")))["evaluation"].is_null());
  EXPECT_TRUE(std::filesystem::exists(path("out/report.html")));
}

TEST_F(Evaluate, QuantizeKilledInItsEvaluationGoesOn) {
  const std::string source = tiny_checkpoint().string(), texts = rows(4, 60);
  const auto command = [&](const std::string& name) {
    return std::vector<std::string>{"quantize",   source,    path(name),       "--calib", texts,
                                    "--evaluate", texts,     "--evaluate-seq", "60",      "--engine",
                                    "none",       "--quiet", "--json"};
  };
  const auto figures = [&](const std::string& name) {
    const Json record = Json::parse(read_file(path(name + "/nibblecast.json")));
    Json models = record.at("evaluation").at("models");
    for (Json& model : models)
      for (const char* own : {"path", "bytes"}) model.erase(own);
    return models;
  };
  run_json(command("whole"));
  size_t resumed = 0;
  for (size_t attempt = 0; attempt < 20 && resumed < 3; ++attempt) {
    const std::string name = "killed" + std::to_string(attempt), state = path(name + "/.evaluation.partial");
    CliProcess process(command(name));
    wait_for(process, state + "/evaluation.json");
    kill_after(process, {});
    ASSERT_EQ(run_cli(command(name)).exit_code, 0);
    EXPECT_EQ(figures(name), figures("whole"));
    EXPECT_FALSE(fs::exists(state));
    resumed += Json::parse(read_file(path(name + "/nibblecast.json")))["evaluation"]["resumed_at_layer"] != 0;
  }
  EXPECT_GT(resumed, 0u) << "no kill came between two layers";
  EXPECT_EQ(run_cli({"verify", "--checksums", path("killed0"), "--quiet"}).exit_code, 0);
}

// What is left of an evaluation goes where none is asked for any more.
TEST_F(Evaluate, QuantizeWithoutEvaluationRemovesItsState) {
  const std::string source = tiny_checkpoint().string(), texts = rows(3, 40);
  quantize(source, "out", {"--calib", texts});
  write_file(path("out/.evaluation.partial"), "left");
  EXPECT_EQ(run_cli({"verify", source, path("out"), "--quiet"}).exit_code, 6) << "left by a run";
  quantize(source, "out", {"--calib", texts});
  EXPECT_FALSE(fs::exists(path("out/.evaluation.partial")));
}

TEST_F(Evaluate, QuantizeFindsBeforeTheRunWhatEvaluationLacks) {
  const std::string source = tiny_checkpoint().string();
  expect_refused(
      {"quantize", source, path("out"), "--calib", rows(3, 40), "--evaluate", path("none.jsonl"), "--quiet"},
      3, "there is no such file");
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(Evaluate, ReportsGoIntoOwnOutputsAndElsewhereWhereAsked) {
  const std::string source = tiny_checkpoint().string(), texts = rows(3, 40);
  quantize(source, "own", {"--calib", texts});
  const Json own = evaluate({source, path("own"), source}, texts);
  const Json report = Json::parse(read_file(path("own/report.json")));
  ASSERT_EQ(report["evaluation"]["models"].size(), 2) << "the source and itself";
  EXPECT_EQ(report["evaluation"]["models"][1]["against_source"], own["models"][1]["against_source"]);
  EXPECT_FALSE(std::filesystem::exists(source + "/report.json"));

  std::filesystem::copy(path("own"), path("foreign"), std::filesystem::copy_options::recursive);
  for (const char* ours : {"nibblecast.json", "report.json", "report.html"})
    std::filesystem::remove(path("foreign") + "/" + ours);
  std::filesystem::create_directory(path("shown"));
  evaluate({source, path("foreign")}, texts, {"-o", path("shown")});
  EXPECT_FALSE(std::filesystem::exists(path("foreign/report.json")));
  const Json shown = Json::parse(read_file(path("shown/report.json")));
  EXPECT_EQ(shown["made_by"], "evaluate");
  EXPECT_EQ(shown["destination"], "foreign");
  EXPECT_THAT(shown["verdict"]["text"].get<std::string>(), ::testing::StartsWith("KL divergence"));
  EXPECT_TRUE(shown["commands"]["verify"].is_null());

  // Of another source, which has other headers, it is nobody's.
  ASSERT_EQ(run_cli({"synth", "qwen3-tiny", path("other"), "--quiet"}).exit_code, 0);
  write_file(path("other.json"), evaluate({path("other")}, texts).dump());
  expect_refused({"report", path("own"), "--evaluation", path("other.json")}, 3, "another source");
  expect_refused({"evaluate", source, path("own"), path("foreign"), "--text", texts, "-o", path("shown")}, 2,
                 "one candidate");
  expect_refused({"evaluate", source, path("own"), "--text", texts, "-o", path("nowhere")}, 2,
                 "no such folder");
}

TEST_F(Evaluate, WrongInputIsOneError) {
  const std::string source = tiny_checkpoint().string(), text = rows(2, 20);
  expect_refused({"evaluate", source, path("missing"), "--text", text, "--quiet"}, 3,
                 "there is no such folder");
  expect_refused({"evaluate", source, "--quiet"}, 2, "--text");
  expect_refused({"evaluate", source, "--text", path("none.jsonl"), "--quiet"}, 3, "none.jsonl");
  expect_refused({"evaluate", source, "--text", text, "--quiet"}, 3, "at least 2048 tokens for one row");
  expect_refused({"evaluate", source, "--text", text + ":0", "--quiet"}, 2, "--text NAME:COUNT");
  expect_refused({"evaluate", source, "--text", text, "--activations", "fp8", "--quiet"}, 2, "nvfp4 or none");
  expect_refused({"evaluate", source, "--text", text, "--text-rows", "docs", "--text-size", "2", "--memory",
                  "32M", "--quiet"},
                 5, "of memory");
  ASSERT_EQ(run_cli({"synth", "qwen3-8b", path("other"), "--sparse", "--quiet"}).exit_code, 0);
  expect_refused({"evaluate", source, path("other"), "--text", text, "--quiet"}, 3, "another model");
}

TEST_F(Evaluate, RowsThatPredictNothingAreRefused) {
  write_file(path("one.jsonl"), "{\"input_ids\": [1]}\n{\"input_ids\": [2]}\n");
  expect_refused({"evaluate", tiny_checkpoint().string(), "--text", path("one.jsonl"), "--text-rows", "docs",
                  "--text-size", "2", "--quiet"},
                 3, "no token is predicted");
}

// ---- against transformers ----

template <class T>
std::vector<T> tensor_of(const fs::path& file, const std::string& name) {
  const std::string bytes = read_file(file);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const Json entry = Json::parse(bytes.substr(8, header)).at(name);
  const uint64_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
  std::vector<T> values((end - begin) / sizeof(T));
  std::memcpy(values.data(), bytes.data() + 8 + header + begin, end - begin);
  return values;
}

TEST_F(Evaluate, TheTinyReleaseHasTheOraclesPerplexityAndMaxItsDivergence) {
  SKIP_WITHOUT_SHARED_MODEL(source, "tiny-v4");
  quantize(source.string(), "max",
           {"--input-scale", "1.0", "--weight-method", "max", "--recipe", "nvfp4_experts_only"});
  const Json json = run_json({"evaluate", source.string(), path("max"), "--text",
                              (source / "eval.jsonl").string(), "--text-size", "24", "--text-seq", "512",
                              "--compute-dtype", "float32", "--activations", "none"});
  const Json oracle = Json::parse(read_file(source / "oracle.json"));
  const Json& own = json["models"][0];
  EXPECT_NEAR(own["perplexity"].get<double>() / oracle["eval_ppl"].get<double>(), 1, 1e-4);
  double expected = 0, found = 0;
  for (const double sum : tensor_of<double>(source / "oracle.safetensors", "eval.nll_sum")) expected += sum;
  for (const Json& row : own["rows"]) found += row["nll_sum"].get<double>();
  EXPECT_NEAR(found / expected, 1, 1e-5);
  // docs/accuracy.md, measured of the same weights with transformers.
  const Json& max = json["models"][1]["against_source"];
  EXPECT_NEAR(max["kl_mean"].get<double>(), 0.0097, 1e-4);
  EXPECT_NEAR(max["top1_agreement"].get<double>(), 0.934, 1e-3);
}

class Families : public Evaluate, public ::testing::WithParamInterface<const char*> {};

std::string ids_of(const fs::path& model) { return (model / "eval.jsonl").string(); }

TEST_P(Families, HaveTheOraclesLosses) {
  SKIP_WITHOUT_SHARED_MODEL(source, std::string("families/") + GetParam());
  const Json json = evaluate({source.string()}, ids_of(source));
  const Json oracle = Json::parse(read_file(source / "oracle.json"))["rows"];
  const Json& rows = json["models"][0]["rows"];
  ASSERT_EQ(rows.size(), oracle.size());
  for (size_t row = 0; row < rows.size(); ++row)
    EXPECT_NEAR(rows[row]["nll_sum"].get<double>() / oracle[row]["nll_sum"].get<double>(), 1, 1e-5) << row;
}

// A copy in one file, each tensor after change(tensor, bytes).
template <class F>
void write_changed(const std::string& from, const std::string& to, Json config, const F& change) {
  const Checkpoint source = Checkpoint::open(from, system_files());
  TensorReader reader(source);
  std::vector<Tensor> tensors;
  std::string data;
  for (Tensor tensor : source.tensors()) {
    std::vector<std::byte> bytes = reader.read(tensor);
    change(tensor, bytes);
    tensor.offset = data.size();
    tensor.size_bytes = bytes.size();
    data.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    tensors.push_back(std::move(tensor));
  }
  fs::create_directories(to);
  write_file(to + "/model.safetensors", write_safetensors_header(tensors, {}) + data);
  if (config.is_null()) config = source.config();
  write_file(to + "/config.json", config.dump());
}

// Engines take one value, and so do figures that are said to be theirs.
TEST_F(Evaluate, AnInputScaleOfTwoValuesIsRefused) {
  quantize(tiny_checkpoint(), "out", {"--input-scale", "1.0"});
  const std::string name = "layers.1.ffn.experts.3.w2.input_scale";
  write_changed(path("out"), path("two"), {}, [&](Tensor& tensor, std::vector<std::byte>& bytes) {
    if (tensor.name != name) return;
    tensor.shape = {2};
    bytes.insert(bytes.end(), bytes.begin(), bytes.end());
  });
  const std::vector<std::string> command = {"evaluate", tiny_checkpoint(), path("two"), "--text",
                                            rows(1, 8), "--text-rows",     "docs",      "--quiet"};
  const CliResult result = run_cli(command);
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("tensor '" + name + "'"));
  EXPECT_THAT(result.err, HasSubstr("expected one F32 value, above 0 and finite, found F32 [2]"));
}

// llm-compressor's form of what lies in ModelOpt's: other names, and reciprocals.
void write_packed_form(const std::string& from, const std::string& to) {
  Json config = Checkpoint::open(from, system_files()).config();
  config["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                   {"format", "nvfp4-pack-quantized"}};
  write_changed(from, to, std::move(config), [](Tensor& out, std::vector<std::byte>& bytes) {
    const bool is_packed = out.dtype == Dtype::kU8;
    const auto rename = [&](const std::string& old_end, const std::string& new_end) {
      if (!out.name.ends_with(old_end)) return false;
      out.name = out.name.substr(0, out.name.size() - old_end.size()) + new_end;
      return true;
    };
    if (is_packed) rename(".weight", ".weight_packed");
    if (rename(".weight_scale_2", ".weight_global_scale") || rename(".input_scale", ".input_global_scale")) {
      float value = 0;
      std::memcpy(&value, bytes.data(), sizeof value);
      value = 1 / value;
      std::memcpy(bytes.data(), &value, sizeof value);
      out.shape = {1};
    }
  });
}

TEST_P(Families, QuantizedByUsAndInOthersFormsAreEvaluatedAlike) {
  SKIP_WITHOUT_SHARED_MODEL(source, std::string("families/") + GetParam());
  quantize(source.string(), "nvfp4", {"--recipe", "nvfp4", "--calib", (source / "calib.jsonl").string()});
  write_packed_form(path("nvfp4"), path("packed"));
  const Json json =
      evaluate({source.string(), source.string(), path("nvfp4"), path("packed")}, ids_of(source));
  expect_no_divergence(json["models"][1]);
  const double kl = json["models"][2]["against_source"]["kl_mean"];
  EXPECT_GT(kl, 0);
  // Reciprocals are rounded: scales differ in their last bit, and a value in a thousand falls on the other
  // side.
  EXPECT_NEAR(json["models"][3]["against_source"]["kl_mean"].get<double>() / kl, 1, 0.02);
  const double weights_only = evaluate({source.string(), path("nvfp4")}, ids_of(source),
                                       {"--activations", "none"})["models"][1]["against_source"]["kl_mean"];
  EXPECT_LT(weights_only, kl);
}

INSTANTIATE_TEST_SUITE_P(All, Families,
                         ::testing::Values("llama", "qwen2", "qwen3", "qwen3_moe", "mixtral", "glm4_moe"));

}  // namespace
}  // namespace nibblecast::testing
