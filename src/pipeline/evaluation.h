// pipeline/evaluation.h - what a checkpoint, or several against their source, make of rows of tokens:
// perplexity, divergence of the distributions over the whole vocabulary, and where in the model errors begin.
// All go through the layers in step, each reading its weights once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calibration/rows.h"
#include "checkpoint/checkpoint.h"
#include "model/forward_pass.h"
#include "pipeline/evaluation_statistics.h"
#include "pipeline/io_threads.h"
#include "plan/cost.h"
#include "plan/input_scale_rule.h"
#include "plan/plan.h"

namespace nibblecast {

// A checkpoint, what is read of it (make_forward_plan()), both of which outlive the evaluation, and how
// inputs of its linears are rounded.
struct EvaluatedModel {
  const Checkpoint* checkpoint = nullptr;
  const Plan* plan = nullptr;
  InputScaleRule input_scale = {};
};

struct EvaluationProgress {
  std::string stage = {};  // "layer 4 of 61, candidate 1 of 2"
  uint64_t bytes_done = 0, bytes = 0;
};

struct EvaluationOptions {
  ForwardDevice device = {};       // of each model
  uint64_t read_memory_bytes = 0;  // of each model
  size_t read_threads = kIoThreads;
  // Where the state between layers is kept, so that an evaluation that was killed goes on there with the same
  // figures; empty: nowhere. At most 3 % of the time goes into it.
  std::filesystem::path state_folder = {};
  std::string identity = {};                                     // of all that the figures depend on
  std::function<void(const EvaluationProgress&)> progress = {};  // may throw, which ends it
};

// After a layer, against the source; errors are ||a - b|| / ||a|| over all tokens.
struct LayerErrors {
  uint64_t layer = 0;
  double stream_error = 0, stream_cosine = 1;  // of what goes into the next layer
  // Where the forward pass shows them: what attention and feed-forward give, and the share of the source's
  // choices of experts that the candidate does not make.
  std::optional<double> mixer_error = {}, ffn_error = {}, routing_moved = {};
};

struct RowNll {
  uint64_t tokens = 0;  // predicted
  double nll_sum = 0;   // nats
};

// A token that the candidate finds much less, or more, likely than the source does; by its KL.
struct WorstToken {
  size_t row = 0, place = 0;  // of the token that is predicted
  double kl = 0, logprob_delta = 0;
};
inline constexpr size_t kWorstTokens = 20;

struct ModelEvaluation {
  std::vector<RowNll> rows = {};  // in their order
  double nll_mean = 0, nll_stderr = 0;
  uint64_t read_bytes = 0;  // 0 where it shares what another has read
  // Inputs of linears that were rounded; nothing where that is not counted.
  std::optional<RoundedBlocks> rounded = RoundedBlocks{};
  // Of candidates.
  std::optional<Divergence> against_source = {};
  std::vector<LayerErrors> layers = {};
  std::vector<WorstToken> worst = {};  // descending

  double perplexity() const;  // exp(nll_mean)
};

struct Evaluation {
  uint64_t tokens = 0;  // predicted, of all rows
  std::vector<ModelEvaluation> models = {};
  double seconds = 0, read_wait_seconds = 0;      // of this process
  uint64_t resumed_at = 0;                        // layer; 0: from the begin
  std::map<uint64_t, double> layer_seconds = {};  // of the layers since then, all models together
  DeviceUse device = {};                          // of all models together
};

// models[0] is the source; rows as for a calibration. Models one after the other with the same checkpoint
// share what is read of it. kBadInput: models that differ (require_same_model()), no token that is predicted.
// Errors besides as those of ForwardPass, apply_rule() and Reader.
Evaluation evaluate(std::span<const EvaluatedModel> models, const CalibrationRows& rows,
                    const EvaluationOptions& options);

// What a model takes to round the inputs of a linear, where the model computes.
uint64_t rounded_inputs_bytes(const Model& model, const Workload& work);

// What evaluate() takes of host memory beside the models' passes and their readers, and what they meet in: a
// few numbers a token.
uint64_t evaluation_memory_bytes(const Model& model, const Workload& work, size_t models);

// What they meet in, where the models compute: the source's logits of a part of the vocabulary, and what is
// watched within a layer.
uint64_t meeting_bytes(const Model& model, const Workload& work, size_t models, bool on_device);

}  // namespace nibblecast
