#include "ops/matmul_cuda.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <map>
#include <type_traits>

#include "base/error.h"

namespace nibblecast {
namespace {

// The functions of the library that are used, looked up once.
struct CublasLt {
#define NIBBLECAST_FUNCTION(name) decltype(&::name) name = load<decltype(&::name)>(#name)
  NIBBLECAST_FUNCTION(cublasLtCreate);
  NIBBLECAST_FUNCTION(cublasLtDestroy);
  NIBBLECAST_FUNCTION(cublasLtGetVersion);
  NIBBLECAST_FUNCTION(cublasLtGetStatusString);
  NIBBLECAST_FUNCTION(cublasLtMatmulDescCreate);
  NIBBLECAST_FUNCTION(cublasLtMatmulDescDestroy);
  NIBBLECAST_FUNCTION(cublasLtMatmulDescSetAttribute);
  NIBBLECAST_FUNCTION(cublasLtMatrixLayoutCreate);
  NIBBLECAST_FUNCTION(cublasLtMatrixLayoutDestroy);
  NIBBLECAST_FUNCTION(cublasLtMatrixLayoutSetAttribute);
  NIBBLECAST_FUNCTION(cublasLtMatmulPreferenceCreate);
  NIBBLECAST_FUNCTION(cublasLtMatmulPreferenceDestroy);
  NIBBLECAST_FUNCTION(cublasLtMatmulPreferenceSetAttribute);
  NIBBLECAST_FUNCTION(cublasLtMatmulAlgoGetHeuristic);
  NIBBLECAST_FUNCTION(cublasLtMatmulAlgoConfigGetAttribute);
  NIBBLECAST_FUNCTION(cublasLtMatmul);
#undef NIBBLECAST_FUNCTION

  void check(cublasStatus_t status, const char* call) const {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw Error(ErrorKind::kDevice, {},
                fmt::format("the GPU failed: {}: {}", call, cublasLtGetStatusString(status)),
                {.hint = "run the same command again to go on; --device cpu does without the GPU"});
  }

 private:
  static void* open() {
    const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
    std::string reasons;
    for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name}) {
      if (void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      reasons += (reasons.empty() ? "" : "; ") + std::string(::dlerror());
    }
    throw Error(ErrorKind::kRefused, {.file = name}, "the library of products on GPUs cannot be loaded",
                {.found = reasons,
                 .hint = fmt::format("install cuBLAS {0} (it comes with CUDA {0}) or set LD_LIBRARY_PATH; "
                                     "--device cpu does without",
                                     CUBLAS_VER_MAJOR)});
  }

  template <class F>
  static F load(const char* name) {
    static void* const library = open();  // never closed: other threads may be in it at exit
    void* const function = ::dlsym(library, name);
    if (function == nullptr) {
      throw Error(ErrorKind::kRefused, {}, fmt::format("the cuBLASLt library lacks {}", name),
                  {.hint = "it is of another version; --device cpu does without"});
    }
    return reinterpret_cast<F>(function);
  }
};

const CublasLt& cublaslt() {
  static const CublasLt library;
  return library;
}

template <class T>
constexpr cudaDataType_t data_type() {
  return std::is_same_v<T, bf16> ? CUDA_R_16BF : CUDA_R_32F;
}

// Move-only owners of the library's descriptions.
template <class Handle, auto kDestroy>
class Owned {
 public:
  Owned() = default;
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) (cublaslt().*kDestroy)(handle_);
  }
  Handle* slot() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Description = Owned<cublasLtMatmulDesc_t, &CublasLt::cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, &CublasLt::cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, &CublasLt::cublasLtMatmulPreferenceDestroy>;

// cuBLASLt's matrices have contiguous columns: our rows. So it computes yᵀ [n, m] = w [n, k] · xᵀ [k, m].
struct Product {
  Description description;
  Layout w, x, y;
  cublasLtMatmulAlgo_t algorithm = {};
};

Layout layout(cudaDataType_t type, size_t column, size_t columns, size_t stride, size_t count, size_t step) {
  const CublasLt& library = cublaslt();
  Layout result;
  library.check(
      library.cublasLtMatrixLayoutCreate(result.slot(), type, column, columns, static_cast<int64_t>(stride)),
      "cublasLtMatrixLayoutCreate");
  const auto set = [&](cublasLtMatrixLayoutAttribute_t attribute, auto value) {
    library.check(library.cublasLtMatrixLayoutSetAttribute(result.get(), attribute, &value, sizeof value),
                  "cublasLtMatrixLayoutSetAttribute");
  };
  if (count > 1) {
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(count));
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, static_cast<int64_t>(step));
  }
  return result;
}

Preference preference() {
  const CublasLt& library = cublaslt();
  Preference result;
  library.check(library.cublasLtMatmulPreferenceCreate(result.slot()), "cublasLtMatmulPreferenceCreate");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    library.check(library.cublasLtMatmulPreferenceSetAttribute(result.get(), attribute, &value, sizeof value),
                  "cublasLtMatmulPreferenceSetAttribute");
  };
  constexpr uint32_t kAlignment = 16;
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(CudaProducts::kWorkspaceBytes));
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(attribute, kAlignment);
  }
  return result;
}

bool divides_reduction(const cublasLtMatmulAlgo_t& algorithm) {
  const CublasLt& library = cublaslt();
  const auto is_above = [&](cublasLtMatmulAlgoConfigAttributes_t attribute, auto most) {
    decltype(most) value = 0;
    size_t written = 0;
    return library.cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof value,
                                                        &written) == CUBLAS_STATUS_SUCCESS &&
           value > most;
  };
  return is_above(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, int32_t{1}) ||
         is_above(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                  static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
}

template <class T, class Out>
Product make_product(cublasLtHandle_t handle, const ProductShape& shape) {
  const CublasLt& library = cublaslt();
  Product product;
  library.check(library.cublasLtMatmulDescCreate(product.description.slot(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
                "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  library.check(library.cublasLtMatmulDescSetAttribute(product.description.get(), CUBLASLT_MATMUL_DESC_TRANSA,
                                                       &transposed, sizeof transposed),
                "cublasLtMatmulDescSetAttribute");
  product.w = layout(data_type<T>(), shape.k, shape.n, shape.w_stride == 0 ? shape.k : shape.w_stride,
                     shape.count, shape.w_step);
  product.x = layout(data_type<T>(), shape.k, shape.m, shape.x_stride, shape.count, shape.x_step);
  product.y = layout(data_type<Out>(), shape.n, shape.m, shape.y_stride, shape.count, shape.y_step);
  const Preference wanted = preference();
  std::array<cublasLtMatmulHeuristicResult_t, 16> ranked;
  int found = 0;
  library.check(library.cublasLtMatmulAlgoGetHeuristic(handle, product.description.get(), product.w.get(),
                                                       product.x.get(), product.y.get(), product.y.get(),
                                                       wanted.get(), ranked.size(), ranked.data(), &found),
                "cublasLtMatmulAlgoGetHeuristic");
  for (int i = 0; i < found; ++i) {
    if (ranked[i].state != CUBLAS_STATUS_SUCCESS || divides_reduction(ranked[i].algo)) continue;
    product.algorithm = ranked[i].algo;
    return product;
  }
  throw Error(
      ErrorKind::kDevice, {},
      fmt::format("cuBLASLt has no algorithm for a product of [{}, {}] and [{}, {}] that sums in one order",
                  shape.m, shape.k, shape.n, shape.k),
      {.hint = "--device cpu does without the GPU"});
}

}  // namespace

struct CudaProducts::State {
  cublasLtHandle_t handle = nullptr;
  DeviceBuffer workspace{kWorkspaceBytes};
  // By T and Out, then shape.
  std::map<ProductShape, Product> made[2][2];

  State() { cublaslt().check(cublaslt().cublasLtCreate(&handle), "cublasLtCreate"); }
  ~State() {
    for (auto& of_input : made) {
      for (auto& products : of_input) products.clear();
    }
    cublaslt().cublasLtDestroy(handle);
  }

  template <class T, class Out>
  const Product& product(const ProductShape& shape) {
    auto& products = made[std::is_same_v<T, bf16>][std::is_same_v<Out, bf16>];
    auto found = products.find(shape);
    if (found == products.end()) found = products.emplace(shape, make_product<T, Out>(handle, shape)).first;
    return found->second;
  }
};

CudaProducts::CudaProducts() : state_(std::make_unique<State>()) {}
CudaProducts::~CudaProducts() = default;
CudaProducts::CudaProducts(CudaProducts&&) noexcept = default;

std::string CudaProducts::library() const {
  const size_t version = cublaslt().cublasLtGetVersion();  // 130002: 13.0.2
  return fmt::format("cuBLASLt {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

template <class T, class Out>
void CudaProducts::multiply(CudaStreamHandle stream, const ProductShape& shape, const T* x, const T* w,
                            Out* y) {
  if (shape.m == 0 || shape.n == 0) return;
  const Product& product = state_->product<T, Out>(shape);
  const float one = 1, zero = 0;
  cublaslt().check(
      cublaslt().cublasLtMatmul(state_->handle, product.description.get(), &one, w, product.w.get(), x,
                                product.x.get(), &zero, y, product.y.get(), y, product.y.get(),
                                &product.algorithm, state_->workspace.data(), kWorkspaceBytes, stream),
      "cublasLtMatmul");
}

template void CudaProducts::multiply(CudaStreamHandle, const ProductShape&, const float*, const float*,
                                     float*);
template void CudaProducts::multiply(CudaStreamHandle, const ProductShape&, const bf16*, const bf16*, float*);
template void CudaProducts::multiply(CudaStreamHandle, const ProductShape&, const bf16*, const bf16*, bf16*);

}  // namespace nibblecast
