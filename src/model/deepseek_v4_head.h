// model/deepseek_v4_head.h - what becomes of logits. Internal to model/deepseek_v4*.cpp.
#pragma once

#include <cstddef>

namespace nibblecast {

// -log softmax(logits)[target], the sum in double.
float negative_log_likelihood(const float* logits, size_t count, size_t target);

}  // namespace nibblecast
