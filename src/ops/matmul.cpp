#include "ops/matmul.h"

#include <omp.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "base/cpu_isa.h"
#include "base/error.h"
#include "ops/round.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

namespace nibblecast {
namespace {

using dnnl::memory;

constexpr size_t padded_rows(size_t m) { return (m + kRowStep - 1) / kRowStep * kRowStep; }

dnnl::engine& cpu_engine() {
  // oneDNN must not use more than --cpu-isa allows, and takes the limit only before its first kernel.
  static dnnl::engine engine = [] {
    if (cpu_isa() == CpuIsa::kAvx2) dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
    if (cpu_isa() == CpuIsa::kScalar) dnnl::set_max_cpu_isa(dnnl::cpu_isa::sse41);
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

memory::desc matrix(size_t rows, size_t cols, memory::data_type type, size_t row_stride, size_t col_stride) {
  using dim = memory::dim;
  return {{static_cast<dim>(rows), static_cast<dim>(cols)},
          type,
          {static_cast<dim>(row_stride), static_cast<dim>(col_stride)}};
}

memory::desc weight_matrix(const TileShape& shape, memory::data_type type, size_t stride) {
  using dim = memory::dim;
  switch (shape.layout) {
    case WeightLayout::kOutputMajor:
      return matrix(shape.k, shape.n, type, 1, stride);
    case WeightLayout::kInputMajor:
      return matrix(shape.k, shape.n, type, stride, 1);
    case WeightLayout::kPacked:
      break;
  }
  return {{static_cast<dim>(shape.k), static_cast<dim>(shape.n)}, type, memory::format_tag::BA16a64b2a};
}

// One oneDNN kernel with the arguments it is called with.
struct Product {
  Product(const TileShape& shape, memory::data_type type, size_t x_stride, size_t w_stride)
      : descriptor(describe(shape, type, x_stride, w_stride)),
        kernel(descriptor),
        x(descriptor.src_desc(), cpu_engine(), nullptr),
        w(descriptor.weights_desc(), cpu_engine(), nullptr),
        y(descriptor.dst_desc(), cpu_engine(), nullptr),
        scratch(descriptor.scratchpad_desc(), cpu_engine(), nullptr),
        arguments{
            {DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}, {DNNL_ARG_SCRATCHPAD, scratch}} {}

  static dnnl::matmul::primitive_desc describe(const TileShape& shape, memory::data_type type,
                                               size_t x_stride, size_t w_stride) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return {
        dnnl::matmul::desc(matrix(shape.m, shape.k, type, x_stride, 1), weight_matrix(shape, type, w_stride),
                           matrix(shape.m, shape.n, memory::data_type::f32, shape.n, 1)),
        attributes, cpu_engine()};
  }

  dnnl::matmul::primitive_desc descriptor;
  dnnl::matmul kernel;
  memory x, w, y, scratch;
  std::unordered_map<int, memory> arguments;
};

// What a thread keeps between calls.
struct ThreadProducts {
  // A product runs on its caller alone: how many threads there are must not show in the sums.
  ThreadProducts() : stream(cpu_engine()) { omp_set_num_threads(1); }

  using Key = std::tuple<size_t, size_t, size_t, size_t, size_t, WeightLayout, bool>;
  dnnl::stream stream;
  std::map<Key, Product> products;
  std::vector<std::byte> scratch, x_padded;
  std::vector<float> y_padded, x_wide, w_wide;
};

ThreadProducts& thread_products() {
  thread_local ThreadProducts products;
  return products;
}

template <class T>
void run(const TileShape& shape, const T* x, size_t x_stride, const T* w, size_t w_stride, float* y) {
  ThreadProducts& own = thread_products();
  constexpr bool kBf16 = std::is_same_v<T, bf16>;
  const memory::data_type type = kBf16 ? memory::data_type::bf16 : memory::data_type::f32;
  const auto key = std::tuple(shape.m, shape.n, shape.k, x_stride, w_stride, shape.layout, kBf16);
  auto found = own.products.find(key);
  if (found == own.products.end()) {
    found =
        own.products
            .emplace(std::piecewise_construct, std::tuple(key), std::tuple(shape, type, x_stride, w_stride))
            .first;
  }
  Product& product = found->second;
  const size_t scratch_bytes = product.descriptor.scratchpad_desc().get_size();
  if (own.scratch.size() < scratch_bytes) own.scratch.resize(scratch_bytes);
  product.x.set_data_handle(const_cast<T*>(x));
  product.w.set_data_handle(const_cast<T*>(w));
  product.y.set_data_handle(y);
  product.scratch.set_data_handle(own.scratch.data());
  product.kernel.execute(own.stream, product.arguments);
}

template <class T>
void run_padded(const TileShape& shape, const T* x, size_t x_stride, const T* w, size_t w_stride, float* y) {
  // A packed panel costs nothing to read again, so only what is left of whole steps of rows is copied.
  const size_t whole = shape.layout == WeightLayout::kPacked ? shape.m / kRowStep * kRowStep
                                                             : (shape.m % kRowStep == 0 ? shape.m : 0);
  TileShape part = shape;
  part.m = whole;
  if (whole > 0) run(part, x, x_stride, w, w_stride, y);
  if (whole == shape.m) return;
  const size_t rest = shape.m - whole;
  part.m = padded_rows(rest);
  ThreadProducts& own = thread_products();
  own.x_padded.assign(part.m * shape.k * sizeof(T), std::byte{0});
  own.y_padded.resize(part.m * shape.n);
  T* copy = reinterpret_cast<T*>(own.x_padded.data());
  for (size_t row = 0; row < rest; ++row)
    std::copy_n(x + (whole + row) * x_stride, shape.k, copy + row * shape.k);
  run(part, copy, shape.k, w, w_stride, own.y_padded.data());
  std::copy_n(own.y_padded.data(), rest * shape.n, y + whole * shape.n);
}

void widen_rows(const bf16* from, size_t rows, size_t cols, size_t stride, std::vector<float>& to) {
  to.resize(rows * cols);
  for (size_t row = 0; row < rows; ++row) widen(from + row * stride, cols, to.data() + row * cols);
}

void multiply(const TileShape& shape, const float* x, size_t x_stride, const float* w, size_t w_stride,
              float* y) {
  run_padded(shape, x, x_stride, w, w_stride, y);
}

void multiply(const TileShape& shape, const bf16* x, size_t x_stride, const bf16* w, size_t w_stride,
              float* y) {
  if (has_bf16_products()) return run_padded(shape, x, x_stride, w, w_stride, y);
  ThreadProducts& own = thread_products();
  const bool output_major = shape.layout == WeightLayout::kOutputMajor;
  const size_t w_rows = output_major ? shape.n : shape.k, w_cols = output_major ? shape.k : shape.n;
  widen_rows(x, shape.m, shape.k, x_stride, own.x_wide);
  widen_rows(w, w_rows, w_cols, w_stride, own.w_wide);
  run_padded(shape, own.x_wide.data(), shape.k, own.w_wide.data(), w_cols, y);
}

}  // namespace

bool has_bf16_products() {
#if defined(__x86_64__)
  static const bool cpu_has = __builtin_cpu_supports("avx512bf16") != 0;
  return cpu_has && cpu_isa() == CpuIsa::kAvx512;
#else
  return false;
#endif
}

bool has_amx_products() {
#if defined(__x86_64__)
  static const bool cpu_has = [] {
    constexpr unsigned kAmxBf16 = 1u << 22;  // CPUID leaf 7, EDX
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBf16) != 0;
  }();
  return cpu_has && cpu_isa() == CpuIsa::kAvx512;
#else
  return false;
#endif
}

template <class T>
bool rows_stand_alone() {
  return cpu_isa() == CpuIsa::kAvx512 && !(std::is_same_v<T, bf16> && has_amx_products());
}
template bool rows_stand_alone<float>();
template bool rows_stand_alone<bf16>();

template <class T>
void matmul_tile(const TileShape& shape, const T* x, size_t x_stride, const T* w, size_t w_stride, float* y) {
  try {
    multiply(shape, x, x_stride, w, w_stride, y);
  } catch (const dnnl::error& error) {
    const std::string what = "product of [" + std::to_string(shape.m) + ", " + std::to_string(shape.k) +
                             "] by " + std::to_string(shape.n) + " columns";
    if (error.status == dnnl_out_of_memory)
      throw Error(ErrorKind::kRefused, {}, "out of memory for a " + what);
    throw Error(ErrorKind::kInternal, {}, "oneDNN refuses a " + what,
                {.found = "status " + std::to_string(error.status)});
  }
}

template <class T>
size_t matmul_scratch_bytes(size_t n, size_t k) {
  const size_t padded = kTileRows * k * sizeof(T) + kTileRows * n * sizeof(float);
  const size_t widened = std::is_same_v<T, bf16> ? (kTileRows + n) * k * sizeof(float) : 0;
  // oneDNN's own: blocks of x and w in the kernel's layout and a block of sums, far below whole operands.
  const size_t library = (kTileRows + n) * k * sizeof(float) + kTileRows * n * sizeof(float);
  return padded + widened + library;
}

template void matmul_tile(const TileShape&, const float*, size_t, const float*, size_t, float*);
template void matmul_tile(const TileShape&, const bf16*, size_t, const bf16*, size_t, float*);
template size_t matmul_scratch_bytes<float>(size_t, size_t);
template size_t matmul_scratch_bytes<bf16>(size_t, size_t);

}  // namespace nibblecast
