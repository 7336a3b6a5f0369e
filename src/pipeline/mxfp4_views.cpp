#include "pipeline/mxfp4_views.h"

#include <algorithm>
#include <atomic>

#include "base/integers.h"
#include "base/parallel.h"
#include "formats/fp8_to_mxfp4.h"
#include "plan/cost.h"

namespace nibblecast {
namespace {

// False where a block is not exactly MXFP4, whichever block is seen first.
bool cast_to_mxfp4(const Fp8BlockView& source, Kernels kernels, uint8_t* codes, uint8_t* scales) {
  const auto kernel = kernels == Kernels::kReference ? cast_fp8_to_mxfp4_ref : cast_fp8_to_mxfp4;
  std::atomic<bool> fits = true;
  parallel_for(ceil_div(source.rows, kRowsPerTask), [&](size_t task) {
    const size_t row = task * kRowsPerTask, rows = std::min<size_t>(kRowsPerTask, source.rows - row);
    if (fits && kernel(source, row, rows, codes + row * source.cols / 2, scales + row * source.cols / 32))
      fits = false;
  });
  return fits;
}

uint8_t* codes_of(const LinearTask& task) { return reinterpret_cast<uint8_t*>(task.weight.data()); }

}  // namespace

Mxfp4Views::Mxfp4Views(const Plan& plan, std::span<const LinearTask> tasks, Kernels kernels)
    : views_(tasks.size()), scales_(tasks.size()) {
  std::vector<bool> fits(UINT8_MAX + 1, true);  // by share: they have one weight_scale_2
  for (size_t index = 0; index < tasks.size(); ++index) {
    const PlannedLinear& linear = *tasks[index].linear;
    if (plan.tensors[linear.weight].make == Make::kCastWeight)
      views_[index] = std::get<Mxfp4View>(tasks[index].source);
    if (!linear.try_cast) fits[linear.share] = false;
    if (!fits[linear.share]) continue;
    const auto& source = std::get<Fp8BlockView>(tasks[index].source);
    scales_[index].resize(source.rows * source.cols / 32);
    fits[linear.share] = cast_to_mxfp4(source, kernels, codes_of(tasks[index]), scales_[index].data());
  }
  for (size_t index = 0; index < tasks.size(); ++index) {
    if (!fits[tasks[index].linear->share]) continue;
    const auto& source = std::get<Fp8BlockView>(tasks[index].source);
    views_[index] = {codes_of(tasks[index]), scales_[index].data(), source.rows, source.cols};
  }
}

}  // namespace nibblecast
