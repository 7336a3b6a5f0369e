// model/forward_pass.h - a model's forward pass over calibration rows as a run drives it, whatever device and
// compute dtype it has: weights come as they are stored, piece by piece, in the order in which they stream
// by.
//
// Order of calls: embed() until all of the vocabulary was seen, or resume_at() and set_streams(); then per
// layer expect_layer(), take() for each part of its dense tensors, begin_layer(), expert() ascending (in a
// dense layer its only MLP, as expert 0), end_layer(), layer_amax(). A device may be behind the calls: so
// that it never waits for them, the next layer may begin before layer_amax(), but not end. After the last
// layer_amax() comes the head, as "layer" Model::layers(): expect_layer() and take() for what comes before
// the head's weight, begin_head(), head() for each part of it, row_losses(). One caller. Results do not
// depend on threads, or on how bytes are divided into calls.
//
// No family is in it: what is computed is the Model's spec, what tensors mean is said by its table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/buffer.h"
#include "checkpoint/tensor.h"
#include "formats/bf16.h"
#include "model/activation_amax.h"
#include "model/logits.h"
#include "model/model.h"
#include "model/rounded_blocks.h"
#include "model/stored.h"
#include "ops/block_amaxes.h"

namespace nibblecast {

// Where it runs. `cuda` names a device of find_cuda_devices(); none: on the CPU.
struct ForwardDevice {
  std::optional<int> cuda = {};
  uint64_t memory_bytes = 0;  // of the device, that may be taken; 0: what is free
  uint64_t expert_bytes = 0;  // of the largest expert as stored; 0: MXFP4's
  size_t held_owners = 4;     // most owners of stored bytes that are kept after a call
  bool profile = false;       // time each part by itself
};

// What a device did so far, in seconds of its own clock; all 0 on the CPU.
struct DeviceUse {
  uint64_t uploaded_bytes = 0;
  double upload_seconds = 0;              // in which weights crossed the bus
  double compute_seconds = 0;             // in which it computed
  std::map<std::string, double> parts{};  // of compute_seconds, with ForwardDevice::profile
};

// What the inputs of linears are rounded with before they are multiplied (formats/nvfp4_input.h), by the
// module's name. Modules without an entry take their input as it is.
using InputScales = std::unordered_map<std::string, float>;

// How large blocks of the inputs of a layer's linears are, by the tap's name; of routed experts, all
// together. What enters a linear is what counts: of experts' down that is as the pass multiplies it, with the
// routing weight where it comes before.
using TapBlocks = std::map<std::string, BlockAmaxes>;

// Values that a pass shows, one of both. With a queue they lie on its device, are there after what was queued
// so far, and stay until what the callee queues is through.
struct ShownValues {
  const float* f32 = nullptr;
  const bf16* b16 = nullptr;
  CudaStream* queue = nullptr;
};

// What may be looked at within a layer.
enum class LayerPart : uint8_t {
  kMixer,  // what attention gives, before it is added to what goes on
  kFfn,    // the same of MLP or experts, the shared one among them
};
struct LayerWatch {
  // Values [count, width] of tokens [first, first + count), in any order of parts and tokens; called from the
  // thread that drives the pass, and read until it returns. width: of a token in the model, hidden_size.
  std::function<void(LayerPart part, size_t first, size_t count, size_t width, const ShownValues& values)>
      part;
  // Experts of all tokens [tokens, top], of a layer that has a router.
  std::function<void(std::span<const int32_t> experts)> routing;
};

class ForwardPass {
 public:
  // Keeps the bytes of a call alive for as long as they are read: a device reads them after the call.
  using Owner = std::shared_ptr<const void>;

  virtual ~ForwardPass() = default;

  // Called now and then within begin_layer(), expert() and end_layer(), by their caller's thread, with the
  // part of that call that is done. May throw, which ends the pass. A device's calls do not last and have
  // none.
  using Tick = std::function<void(double done)>;
  virtual void set_tick(Tick) {}

  // Rows [first, first + count) of the embedding [V, D], in BF16 or in the compute dtype.
  virtual void embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes) = 0;

  // Instead of embed(): goes on with `layer`, after set_streams() for all bytes of the streams that enter it.
  virtual void resume_at(uint64_t layer) = 0;
  // What is carried from the last layer that ended into the next: [tokens, Model::carried_width()] in the
  // compute dtype.
  virtual uint64_t streams_bytes() const = 0;
  virtual void set_streams(uint64_t begin, std::span<const std::byte> bytes) = 0;
  // `bytes` may be the memory of the device on which the pass computes.
  virtual void get_streams(uint64_t begin, std::span<std::byte> bytes) const = 0;

  // `dense`: all tensors of the layer but those of WeightModule::streams(), as the checkpoint has them; of
  // "layer" Model::layers() the plain ones of the table's globals.
  virtual void expect_layer(uint64_t layer, std::span<const Tensor> dense) = 0;
  // Bytes [begin, begin + bytes.size()) of dense tensor `name` of the expected layer.
  virtual void take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes,
                    const Owner& owner) = 0;
  // Of the expected layer's dense linears, before begin_layer(); experts bring their own. kUnsupported where
  // the pass rounds no inputs and `scales` has any.
  virtual void set_input_scales(InputScales scales);
  // Since the pass began; nothing where it does not count them.
  virtual std::optional<RoundedBlocks> rounded_blocks() const { return std::nullopt; }
  // Of the layers from here on. A pass that shows nothing calls nothing.
  virtual void watch(LayerWatch) {}
  // watch() and begin_head() show values where the pass computes; else a device's are copied to host memory.
  virtual void show_in_place() {}
  // From the next layer on layer_amax() has second moments too. kUnsupported where the pass measures none.
  virtual void measure_second_moments();
  // From the next layer on block_amaxes() has all taps of linears. kUnsupported where the pass measures none.
  virtual void measure_block_amaxes();
  // Of the layer that ended last.
  virtual TapBlocks block_amaxes() { return {}; }
  virtual void begin_layer() = 0;
  virtual void expert(uint64_t expert, const StoredExpert& weights, const Owner& owner) = 0;
  virtual void end_layer() = 0;
  // Whether layer_amax() would not wait.
  virtual bool layer_done() const { return true; }
  // Of the layer that ended last. Errors that a device finds late appear here at the latest.
  virtual LayerAmax layer_amax() = 0;

  // Before begin_head(): the head's weight comes in FP32 instead of BF16. kUnsupported where the pass does
  // not take it so.
  virtual void set_wide_head();
  // `sink`, which may be empty, is given all logits; without it they do not leave the device.
  virtual void begin_head(LogitsSink sink) = 0;
  // Bytes [begin, begin + bytes.size()) of the head's weight (BF16 [V, D], or FP32), in order.
  virtual void head(uint64_t begin, std::span<const std::byte> bytes, const Owner& owner) = 0;
  virtual RowLosses row_losses() = 0;

  virtual DeviceUse device_use() const { return {}; }
};

// What allocates memory from which a device takes weights fastest; null: nothing better than Buffer's own.
using BufferAllocator = Buffer (*)(size_t size_bytes);
BufferAllocator read_buffers(const ForwardDevice& device);

// What of a device rounding depends on ("cuda sm_90 NVIDIA H100, cuBLASLt 13.0.2"); empty for the CPU. Errors
// as of ops/matmul_cuda.h.
std::string device_identity(const ForwardDevice& device);

// How fast products and the way to the device are, from a short run. 0: no such device, or not measured.
struct ComputeRates {
  double flops_per_second = 0, bus_bytes_per_second = 0;
};
template <class T>
ComputeRates probe_device(const ForwardDevice& device);

// T: bf16 or float. kRefused where the device's memory is short; kUnsupported where a device lacks something
// that the model needs. `model` outlives the pass.
template <class T>
std::unique_ptr<ForwardPass> make_forward_pass(const Model& model, std::vector<std::vector<int32_t>> rows,
                                               const ForwardDevice& device);

// Peak bytes of memory that a pass on the CPU takes for `tokens` tokens in rows of at most `longest_row`,
// beyond the stored tensors handed in. An upper bound that `plan` prints and that a run never exceeds.
template <class T>
uint64_t forward_memory_bytes(const Model& model, uint64_t tokens, uint64_t longest_row, size_t threads);

}  // namespace nibblecast
