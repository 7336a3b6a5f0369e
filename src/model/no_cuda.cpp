// In builds without CUDA: a device that cannot be chosen.

#include "base/error.h"
#include "model/families/deepseek_v4/config.h"
#include "model/forward_pass.h"
#include "model/token_rows.h"

namespace nibblecast {

namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorKind::kUnsupported, {}, "this program was built without CUDA",
              {.hint = "use --device cpu"});
}

}  // namespace

template <class T>
std::unique_ptr<ForwardPass> make_cuda_forward_pass(const DeepseekV4Config&,
                                                    std::vector<std::vector<int32_t>>, const ForwardDevice&) {
  refuse();
}
template <class T>
std::unique_ptr<ForwardPass> make_cuda_decoder_forward(const Model&, TokenRows, const ForwardDevice&) {
  refuse();
}

BufferAllocator read_buffers(const ForwardDevice&) { return nullptr; }
std::string device_identity(const ForwardDevice&) { return {}; }

template <class T>
ComputeRates probe_device(const ForwardDevice&) {
  return {};
}
template ComputeRates probe_device<float>(const ForwardDevice&);
template ComputeRates probe_device<bf16>(const ForwardDevice&);

template std::unique_ptr<ForwardPass> make_cuda_forward_pass<float>(const DeepseekV4Config&,
                                                                    std::vector<std::vector<int32_t>>,
                                                                    const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_cuda_forward_pass<bf16>(const DeepseekV4Config&,
                                                                   std::vector<std::vector<int32_t>>,
                                                                   const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_cuda_decoder_forward<float>(const Model&, TokenRows,
                                                                       const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_cuda_decoder_forward<bf16>(const Model&, TokenRows,
                                                                      const ForwardDevice&);

}  // namespace nibblecast
