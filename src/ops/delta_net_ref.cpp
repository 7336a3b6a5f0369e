#include <cmath>
#include <vector>

#include "ops/delta_net.h"

namespace nibblecast {
namespace {

using Vector = std::vector<double>;

double silu(double x) { return x / (1 + std::exp(-x)); }

double sum_of_squares(const double* x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

// [length, channels]
Vector convolved(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const float* x, size_t length) {
  const size_t channels = shape.channels();
  Vector y(length * channels);
  for (size_t token = 0; token < length; ++token) {
    for (size_t channel = 0; channel < channels; ++channel) {
      double sum = 0;
      for (size_t back = 0; back < shape.taps && back <= token; ++back) {
        sum += double{x[(token - back) * channels + channel]} *
               double{vectors.filter[(shape.taps - 1 - back) * channels + channel]};
      }
      y[token * channels + channel] = silu(sum);
    }
  }
  return y;
}

void normalize(double* x, size_t width, double factor) {
  const double length = std::sqrt(sum_of_squares(x, width) + double{kDeltaHeadEps});
  for (size_t i = 0; i < width; ++i) x[i] *= factor / length;
}

// One token of one head: state [key_width, value_width]; o [value_width].
void step(const DeltaNetShape& shape, const double* query, const double* key, const double* value,
          double decay, double beta, Vector& state, double* o) {
  const size_t cols = shape.value_width;
  for (double& each : state) each *= decay;
  for (size_t j = 0; j < cols; ++j) {
    double found = 0;
    for (size_t i = 0; i < shape.key_width; ++i) found += state[i * cols + j] * key[i];
    const double change = beta * (value[j] - found);
    o[j] = 0;
    for (size_t i = 0; i < shape.key_width; ++i) {
      state[i * cols + j] += key[i] * change;
      o[j] += state[i * cols + j] * query[i];
    }
  }
}

}  // namespace

template <class T>
void delta_net_ref(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const DeltaNetInputs& inputs,
                   size_t length, T* out) {
  Vector y = convolved(shape, vectors, inputs.x, length);
  const size_t width = shape.value_width;
  for (size_t token = 0; token < length; ++token) {
    double* const own = y.data() + token * shape.channels();
    for (size_t head = 0; head < shape.key_heads; ++head) {
      normalize(own + head * shape.key_width, shape.key_width,
                1 / std::sqrt(static_cast<double>(shape.key_width)));
      normalize(own + shape.keys() + head * shape.key_width, shape.key_width, 1);
    }
  }
  for (size_t head = 0; head < shape.value_heads; ++head) {
    Vector state(shape.key_width * width), o(width);
    for (size_t token = 0; token < length; ++token) {
      const double* const own = y.data() + token * shape.channels();
      const size_t key_at = head / shape.group() * shape.key_width, gate = token * shape.value_heads + head;
      const double a = double{inputs.a[gate]} + double{vectors.step_bias[head]};
      const double decay =
          std::exp(-std::exp(double{vectors.decay_log[head]}) * (a > 30 ? a : std::log1p(std::exp(a))));
      const double beta = 1 / (1 + std::exp(-double{inputs.b[gate]}));
      step(shape, own + key_at, own + shape.keys() + key_at, own + 2 * shape.keys() + head * width, decay,
           beta, state, o.data());
      const double scale =
          1 / std::sqrt(sum_of_squares(o.data(), width) / static_cast<double>(width) + double{vectors.eps});
      const size_t at = token * shape.values() + head * width;
      for (size_t i = 0; i < width; ++i) {
        const double normed = o[i] * scale * double{vectors.norm[i]};
        out[at + i] = from_float<T>(static_cast<float>(normed * silu(double{inputs.z[at + i]})));
      }
    }
  }
}

template void delta_net_ref(const DeltaNetShape&, const DeltaNetVectors&, const DeltaNetInputs&, size_t,
                            float*);
template void delta_net_ref(const DeltaNetShape&, const DeltaNetVectors&, const DeltaNetInputs&, size_t,
                            bf16*);

}  // namespace nibblecast
