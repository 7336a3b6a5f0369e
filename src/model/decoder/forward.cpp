#include "model/decoder/forward.h"

#include "model/decoder/checks.h"
#include "model/decoder/cpu_ops.h"
#include "model/decoder/pass.h"
#include "model/forward_checks.h"

namespace nibblecast {

// model/decoder/forward_cuda.cpp or model/no_cuda.cpp.
template <class T>
std::unique_ptr<ForwardPass> make_cuda_decoder_forward(const Model& model, TokenRows rows,
                                                       const ForwardDevice& device);

template <class T>
std::unique_ptr<ForwardPass> make_decoder_forward(const Model& model,
                                                  const std::vector<std::vector<int32_t>>& rows,
                                                  const ForwardDevice& device) {
  check_decoder(model);
  TokenRows laid_out(std::get<DecoderSpec>(model.spec).vocab, rows);
  check_row_length(model, laid_out.longest);
  if (device.cuda) return make_cuda_decoder_forward<T>(model, std::move(laid_out), device);
  return std::make_unique<DecoderPass<CpuOps<T>>>(model, std::move(laid_out), device);
}

template std::unique_ptr<ForwardPass> make_decoder_forward<float>(const Model&,
                                                                  const std::vector<std::vector<int32_t>>&,
                                                                  const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_decoder_forward<bf16>(const Model&,
                                                                 const std::vector<std::vector<int32_t>>&,
                                                                 const ForwardDevice&);

}  // namespace nibblecast
