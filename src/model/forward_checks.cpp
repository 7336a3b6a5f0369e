#include "model/forward_checks.h"

#include <cmath>

#include "base/error.h"
#include "checkpoint/tensor.h"

namespace nibblecast {
namespace {

std::string amax_text(float amax) { return std::isnan(amax) ? "NaN" : "infinity"; }

}  // namespace

void check_shape(const std::string& module, const StoredLinear& weight, size_t rows, size_t cols) {
  if (rows_of(weight) == rows && cols_of(weight) == cols) return;
  throw Error(
      ErrorKind::kBadInput, {.tensor = module}, "does not fit the model's configuration",
      {.expected = shape_text({rows, cols}), .found = shape_text({rows_of(weight), cols_of(weight)})});
}

void check_input(const std::string& module, float amax) {
  if (std::isfinite(amax)) return;
  throw Error(ErrorKind::kBadInput, {.tensor = module}, "has an input that is not finite",
              {.found = amax_text(amax),
               .hint = "a weight before it is NaN or far too large; is the checkpoint damaged?"});
}

void check_streams(const std::string& module, float amax) {
  if (std::isfinite(amax)) return;
  throw Error(ErrorKind::kBadInput, {.tensor = module}, "leaves residual streams that are not finite",
              {.found = amax_text(amax),
               .hint = "a weight of this layer is NaN or far too large; is the checkpoint damaged?"});
}

void check_embedding(const std::string& tensor, float amax) {
  if (std::isfinite(amax)) return;
  throw Error(ErrorKind::kBadInput, {.tensor = tensor}, "holds values that are not finite");
}

void refuse_nan_score(const std::string& module) {
  throw Error(ErrorKind::kBadInput, {.tensor = module}, "scores an expert NaN",
              {.hint = "a weight or bias is NaN or far too large; is the checkpoint damaged?"});
}

}  // namespace nibblecast
