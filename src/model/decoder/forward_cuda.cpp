#include <memory>
#include <utility>

#include "model/decoder/checks.h"
#include "model/decoder/cuda_ops.h"
#include "model/decoder/pass.h"

namespace nibblecast {

template <class T>
std::unique_ptr<ForwardPass> make_cuda_decoder_forward(const Model& model, TokenRows rows,
                                                       const ForwardDevice& device) {
  check_cuda_decoder(std::get<DecoderSpec>(model.spec));
  use_cuda_device(device.cuda.value());
  return std::make_unique<DecoderPass<CudaOps<T>>>(model, std::move(rows), device);
}

template std::unique_ptr<ForwardPass> make_cuda_decoder_forward<float>(const Model&, TokenRows,
                                                                       const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_cuda_decoder_forward<bf16>(const Model&, TokenRows,
                                                                      const ForwardDevice&);

}  // namespace nibblecast
