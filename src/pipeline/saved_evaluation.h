// pipeline/saved_evaluation.h - how far an evaluation is, on disk, so that it goes on after it was killed.
//
//   FOLDER/evaluation.json     identity, the layer that comes next, the streams' files, errors of the layers
//   so
//                              far; replaced at once, after the streams that it names are durable
//   FOLDER/model-I/streams-L   of model I, as saved_streams.h has them
//   FOLDER/lock                held while an evaluation is at work there
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "model/forward_pass.h"
#include "pipeline/evaluation.h"
#include "pipeline/job.h"

namespace nibblecast {

struct EvaluationState {
  uint64_t layer = 0;                                      // that comes next; Plan::layers(): the head
  std::vector<SavedStreams> streams = {};                  // of each model
  std::vector<std::vector<LayerErrors>> errors = {};       // of each model, of the layers before; to the bit
  std::vector<std::optional<RoundedBlocks>> rounded = {};  // of each model
};

class SavedEvaluation {
 public:
  // Makes the folder where it is not there, and locks it. `identity`: of everything that the figures depend
  // on. kRefused: another process is at work there, or what is there is of another evaluation or no state.
  SavedEvaluation(FileSystem& files, std::filesystem::path folder, std::string identity);

  // What was saved last; nothing where nothing was.
  const std::optional<EvaluationState>& state() const { return state_; }
  // Puts the streams of the state into a model's pass, which was begun at its layer; false where they are
  // missing or damaged.
  bool load(size_t model, ForwardPass& pass) const;
  // `state` but for its streams, which come from the passes. Durable on return; what was saved before is
  // removed.
  void save(EvaluationState state, const std::vector<const ForwardPass*>& passes);
  // The evaluation is finished: nothing of it stays but the folder.
  void remove();

 private:
  std::filesystem::path model_folder(size_t model) const;
  void read();

  FileSystem& files_;
  const std::filesystem::path folder_;
  const std::string identity_;
  std::unique_ptr<FileLock> lock_;
  std::optional<EvaluationState> state_;
};

}  // namespace nibblecast
