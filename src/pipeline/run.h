// pipeline/run.h - executes a Plan: every source byte is read once, every output byte written once.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "calibration/amax_file.h"
#include "calibration/rows.h"
#include "checkpoint/checkpoint.h"
#include "formats/mxfp4_to_nvfp4.h"
#include "model/forward_pass.h"
#include "pipeline/damage.h"
#include "pipeline/io_threads.h"
#include "pipeline/job.h"
#include "pipeline/run_progress.h"
#include "plan/input_scale.h"
#include "plan/plan.h"

namespace nibblecast {

// Where input scales come from: a forward pass over rows, or an amax file (no forward pass). At most one;
// neither where the plan needs none.
struct Activations {
  std::optional<CalibrationRows> rows = {};
  std::optional<AmaxFile> amax = {};
  std::string origin = {};                 // path of the text or of the amax file, for messages
  std::string identity = {};               // hash of the ids, or of the file's content
  std::string products = {};               // of rows: what computes; product_isa() or device_identity()
  std::vector<std::string> warnings = {};  // about the amax file: another model's, experts without tokens...

  static Activations from_rows(CalibrationRows rows, std::string origin);
  static Activations from_amax(FileSystem& files, const std::filesystem::path& path);
};

// Hash (hex) of the rows' ids.
std::string rows_identity(const CalibrationRows& rows);

// plan_identity() of a run, and what a forward pass adds: `products`.
Json run_identity(const Checkpoint& source, const Plan& plan, const Activations& activations);

struct RunOptions {
  uint64_t read_memory_bytes = 0, write_memory_bytes = 0;
  size_t read_threads = kIoThreads;
  ForwardDevice device = {};
  std::filesystem::path amax_output;                // written after every layer; empty: nowhere
  uint64_t checkpoint_every = 1;                    // layers between two savings of the residual streams
  std::optional<double> max_perplexity = {};        // above it the run fails, kVerifyFailed
  bool allow_nonfinite = false;                     // copy NaN and infinity
  std::chrono::milliseconds commit_interval{1000};  // between two groups of journal entries
  std::function<void(const Progress&)> progress;    // called from the running thread; may be empty
};

// What a run found out.
// Where the time of a stage went: what the running thread did, one thing after the other, and beside it a
// device.
struct StageTimes {
  std::string stage =
      {};  // "embedding", "layer 3", "rest", "tensors"; "end": headers, and what is not on the disk yet
  double seconds = 0;
  double read_wait = 0;        // of it: with nothing to do but wait for bytes
  double forward = 0;          // calling the forward pass; with a device, waiting for room there
  double make = 0;             // making what is written
  double write_wait = 0;       // waiting for writes to make room
  double save = 0;             // saving the streams
  double bus = 0, device = 0;  // of a device, as far as it has told: bytes crossed to it, it computed
};

struct RunRecord {
  std::vector<LayerAmax> layers;  // measured, or from the amax file
  // [layer]: experts that saw no token; of layers whose experts are known (knows_experts())
  std::vector<std::vector<uint64_t>> without_tokens;
  CastCounts blocks;
  std::map<std::string, uint64_t> outside_window;  // weight tensor -> blocks requantized
  std::map<std::string, RowLoss> losses;           // weight tensor -> what quantizing it lost
  std::map<std::string, uint64_t> inexact;         // weight tensor -> values that BF16 rounded
  std::map<std::string, NonFinite> nonfinite;      // copied tensor -> NaN and infinity in it
  std::optional<Perplexity> perplexity;        // of the calibration rows; as measured, or by the amax file
  std::vector<std::string> checksums;          // XXH3-128 of each planned tensor
  std::vector<std::string> notes;              // what had to be done again
  uint64_t read_bytes = 0, written_bytes = 0;  // of this attempt
  DeviceUse device;                            // of this attempt
  double seconds = 0;
  double read_wait_seconds = 0;              // in which there was nothing to do but wait for bytes
  double save_seconds = 0;                   // in which streams were saved
  std::map<uint64_t, double> layer_seconds;  // of the layers that the forward pass went through
  std::vector<StageTimes> stages;            // of this attempt, in order
};

// The metadata of the amax file that a forward pass over `rows` gives; without `perplexity` until the head is
// through.
std::map<std::string, std::string> amax_metadata(const Checkpoint& source, const Plan& plan,
                                                 const CalibrationRows& rows,
                                                 const std::optional<Perplexity>& perplexity);

// Writes `options.amax_output`, if there is one, of what `record` has so far.
void save_amax(const Checkpoint& source, const Plan& plan, const Activations& activations,
               const RunOptions& options, const RunRecord& record);

// Both go on where `job` stands, and leave it so that another run can when they throw. Errors: E8M0 byte 255
// in an expert's scales and NaN or infinity in what is copied (kBadInput, tensor and offset), an amax above
// its bound, NaN in the forward pass, a perplexity above max_perplexity, I/O errors, a full disk.

// Forward pass only; no output but `options.amax_output`.
RunRecord calibrate(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
                    const RunOptions& options);

// The whole job into `destination`, which open_destination() made ready. On return all shards are complete
// and durable under NAME.partial; finish_output() (pipeline/output.h) names them.
RunRecord quantize(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
                   const std::filesystem::path& destination, const RunOptions& options);

}  // namespace nibblecast
