#include "model/device_memory.h"

#include "formats/bf16.h"
#include "model/decoder/checks.h"
#include "model/decoder/memory.h"
#include "model/families/deepseek_v4/checks.h"
#include "model/families/deepseek_v4/cuda_memory.h"

namespace nibblecast {

template <class T>
CudaMemory forward_device_memory(const Model& model, const CudaWorkload& workload, uint64_t mlp_bytes,
                                 uint64_t limit_bytes) {
  if (const auto* config = std::get_if<DeepseekV4Config>(&model.spec))
    return cuda_memory<T>(*config, workload, mlp_bytes, limit_bytes);
  return decoder_cuda_memory<T>(model, workload, mlp_bytes, limit_bytes);
}

uint64_t device_vector_bytes(const Model& model, size_t element_bytes) {
  if (const auto* config = std::get_if<DeepseekV4Config>(&model.spec))
    return cuda_layer_bytes(*config, element_bytes).vectors;
  return decoder_layer_bytes(model, element_bytes).vectors;
}

void check_device_model(const Model& model) {
  if (const auto* config = std::get_if<DeepseekV4Config>(&model.spec)) return check_cuda_config(*config);
  check_cuda_decoder(std::get<DecoderSpec>(model.spec));
}

template CudaMemory forward_device_memory<float>(const Model&, const CudaWorkload&, uint64_t, uint64_t);
template CudaMemory forward_device_memory<bf16>(const Model&, const CudaWorkload&, uint64_t, uint64_t);

}  // namespace nibblecast
