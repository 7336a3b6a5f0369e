// A library for LD_PRELOAD that makes the CUDA driver fail from some call on, as a GPU does that fell off the
// bus: NIBBLECAST_FAILING_CUDA="CALL CODE" fails the CALLth of the calls below, and all that follow, with
// the CUresult CODE. NIBBLECAST_COUNTED_CUDA=FILE writes how many there were at the program's end.
//
// The CUDA runtime asks the driver for every function by name, through cuGetProcAddress, which it looks up by
// dlsym: both are taken over here.
#include <cuda.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

struct Fault {
  unsigned long call = ~0ul;
  int code = 0;
  Fault() {
    if (const char* text = std::getenv("NIBBLECAST_FAILING_CUDA")) std::sscanf(text, "%lu %d", &call, &code);
  }
  ~Fault() {
    const char* const path = std::getenv("NIBBLECAST_COUNTED_CUDA");
    std::FILE* const file = path == nullptr ? nullptr : std::fopen(path, "w");
    if (file == nullptr) return;
    std::fprintf(file, "%lu\n", calls.load());
    std::fclose(file);
  }
  std::atomic<unsigned long> calls = 0;
  bool now() { return ++calls >= call; }
};
Fault& fault() {
  static Fault instance;
  return instance;
}

// One for each function; `kPerThread`: its variant for per-thread streams, which has another address.
template <int index, class Function>
struct Failing;
template <int index, class... Arguments>
struct Failing<index, CUresult (*)(Arguments...)> {
  static inline CUresult (*real)(Arguments...) = nullptr;
  static CUresult call(Arguments... arguments) {
    return fault().now() ? static_cast<CUresult>(fault().code) : real(arguments...);
  }
  static void take_over(void** function) {
    real = reinterpret_cast<CUresult (*)(Arguments...)>(*function);
    *function = reinterpret_cast<void*>(&call);
  }
};

void take_over(const char* name, void** function) {
#define NC_FAILS(symbol, variant) \
  if (std::strcmp(name, #symbol) == 0) return Failing<__LINE__, decltype(&variant)>::take_over(function);
  // clang-format off
  NC_FAILS(cuLaunchKernel, cuLaunchKernel)
  NC_FAILS(cuLaunchKernelEx, cuLaunchKernelEx)
  NC_FAILS(cuMemcpyAsync, cuMemcpyAsync)
  NC_FAILS(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync)
  NC_FAILS(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync)
  NC_FAILS(cuMemsetD8Async, cuMemsetD8Async)
  NC_FAILS(cuMemAlloc, cuMemAlloc)
  NC_FAILS(cuMemHostAlloc, cuMemHostAlloc)
  NC_FAILS(cuStreamWaitEvent, cuStreamWaitEvent)
  NC_FAILS(cuStreamSynchronize, cuStreamSynchronize)
  NC_FAILS(cuEventRecord, cuEventRecord)
  NC_FAILS(cuEventSynchronize, cuEventSynchronize)
  NC_FAILS(cuEventQuery, cuEventQuery)
  // clang-format on
#undef NC_FAILS
}

using GetProcAddress = CUresult (*)(const char*, void**, int, cuuint64_t, CUdriverProcAddressQueryResult*);
GetProcAddress real_get_proc_address = nullptr;

CUresult get_proc_address(const char* name, void** function, int version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult* status) {
  const CUresult result = real_get_proc_address(name, function, version, flags, status);
  if (result != CUDA_SUCCESS || function == nullptr || *function == nullptr) return result;
  if (std::strncmp(name, "cuGetProcAddress", 16) == 0)
    *function = reinterpret_cast<void*>(&get_proc_address);
  else
    take_over(name, function);
  return result;
}

}  // namespace

extern "C" void* dlsym(void* handle, const char* name) noexcept {
  static const auto real = reinterpret_cast<void* (*)(void*, const char*)>(
      dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34") != nullptr ? dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34")
                                                          : dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5"));
  void* const found = real(handle, name);
  if (found == nullptr || std::strcmp(name, "cuGetProcAddress_v2") != 0) return found;
  real_get_proc_address = reinterpret_cast<GetProcAddress>(found);
  return reinterpret_cast<void*>(&get_proc_address);
}
