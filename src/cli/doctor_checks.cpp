#include "cli/doctor_checks.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>
#include <system_error>

#include "base/build_info.h"
#include "base/cpu_isa.h"
#include "base/cuda_devices.h"
#include "base/error.h"
#include "base/file.h"
#include "cli/source.h"
#include "cli/text.h"
#include "ops/matmul.h"
#include "ops/product_isa.h"
#include "pipeline/line_probe.h"
#include "plan/cost.h"
#include "plan/memory_room.h"
#include "remote/certificates.h"
#include "remote/http.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

Json bytes_json(uint64_t bytes) { return bytes == kNoLimit ? Json() : Json(bytes); }

// NVIDIA's display controllers on the PCI bus, whether there is a driver or not.
size_t nvidia_cards() {
  const auto text_of = [](const fs::path& path) {
    std::string text;
    std::ifstream(path) >> text;
    return text;
  };
  size_t cards = 0;
  std::error_code failed;
  for (fs::directory_iterator entry("/sys/bus/pci/devices", failed), end; !failed && entry != end;
       entry.increment(failed)) {
    const bool is_display = text_of(entry->path() / "class").starts_with("0x03");
    if (is_display && text_of(entry->path() / "vendor") == "0x10de") ++cards;
  }
  return cards;
}

// What hinders a card of this machine; `absence` of CudaDevices.
Check no_gpu(const std::string& absence) {
  const size_t cards = nvidia_cards();
  Check check{.name = "gpu",
              .found = "none is used: " + absence,
              .figures = {{"nvidia_cards", cards}, {"devices", Json::array()}}};
  if (cards > 0)
    check.found += fmt::format(" ({} {} in this machine)", cards, cards == 1 ? "card is" : "cards are");
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (std::string_view(build_info().cuda).empty()) {
    check.remedy = cards > 0
                       ? "build it where the CUDA toolkit, 12.8 or later, is on PATH"
                       : "all works without one; calibrating is faster on an NVIDIA GPU (Ampere or later)";
  } else if (visible != nullptr) {
    check.remedy = fmt::format("CUDA_VISIBLE_DEVICES is '{}': unset it, or name a card in it", visible);
  } else {
    check.remedy =
        "install NVIDIA's driver, or a newer one; in a container give it the cards (docker run --gpus all)";
  }
  return check;
}

Json device_json(const CudaDevice& device, uint64_t free_bytes) {
  return {{"ordinal", device.ordinal},
          {"name", device.name},
          {"compute_capability", fmt::format("{}.{}", device.major, device.minor)},
          {"memory_bytes", device.memory_bytes},
          {"usable_bytes", free_bytes}};
}

// What fails on a device is a finding here.
template <class F>
void try_on_device(Check& check, const F& f) {
  try {
    f();
  } catch (const Error& error) {
    check.found += std::string("; ") + error.what();
    check.remedy = error.detail().hint.empty() ? "see what nvidia-smi says of it" : error.detail().hint;
  }
}

void add_limit(Check& check, const char* name, uint64_t limit, uint64_t room, const char* remedy) {
  if (limit >= room) return;
  check.found += fmt::format("; {} leaves {}", name, size_text(limit));
  if (check.remedy.empty()) check.remedy = remedy;
}

uint64_t resource_limit(decltype(RLIMIT_AS) resource) {
  rlimit limit = {};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kNoLimit;
  return limit.rlim_cur;
}

}  // namespace

Check check_processor(size_t usable_processors) {
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  const size_t all = online > 0 ? static_cast<size_t>(online) : usable_processors;
  const std::string isa(cpu_isa_name(detect_cpu_isa()));
  Check check{.name = "processor",
              .found = fmt::format("{} of {} processors; kernels for {}", usable_processors, all, isa),
              .figures = {{"processors", usable_processors}, {"online", all}, {"kernels", isa}}};
  if (!build_info().simd)
    check.remedy = "this build has no kernels but the reference: build with -DSIMD=ON";
  else if (detect_cpu_isa() == CpuIsa::kScalar)
    check.remedy =
        "the reference code runs here: x86-64 processors with AVX2 or AVX-512 have kernels of their own";
  else if (usable_processors < all)
    check.remedy = "affinity or the cgroup's quota keeps the others away (taskset, docker run --cpus)";
  return check;
}

Check check_products() {
  const double wide = probe_compute(ComputeDtype::kF32, {}).flops_per_second;
  const double narrow = probe_compute(ComputeDtype::kBF16, {}).flops_per_second;
  Check check{.name = "products",
              .found = fmt::format("{}; {:.0f} GFLOP/s in BF16, {:.0f} in FP32", product_isa(), narrow / 1e9,
                                   wide / 1e9),
              .figures = {{"instructions", product_isa()},
                          {"onednn", onednn_version()},
                          {"bf16_flops_per_second", narrow},
                          {"fp32_flops_per_second", wide}}};
  if (!has_bf16_products())
    check.remedy = "no instructions for BF16: calibrate on a GPU, or on a processor with AVX-512 BF16 or AMX";
  return check;
}

Check check_gpu() {
  const CudaDevices found = find_cuda_devices();
  if (found.usable.empty()) return no_gpu(found.absence);
  Check check{
      .name = "gpu", .found = "", .figures = {{"nvidia_cards", nvidia_cards()}, {"devices", Json::array()}}};
  for (const CudaDevice& device : found.usable) {
    uint64_t room = 0;
    try_on_device(check, [&] { room = usable_cuda_memory(device.ordinal); });
    check.found += fmt::format("{}cuda:{} {}, {} of {} to be used", check.found.empty() ? "" : "; ",
                               device.ordinal, device.name, size_text(room), size_text(device.memory_bytes));
    check.figures["devices"].push_back(device_json(device, room));
  }
  if (!found.absence.empty()) check.found += "; another is not used: " + found.absence;
  // The library of products is looked for when the first is made.
  ForwardDevice first;
  first.cuda = found.usable.front().ordinal;
  try_on_device(check, [&] { check.found += "; products by " + device_identity(first); });
  return check;
}

Check check_memory() {
  const MemoryRoom room = memory_room();
  // Version 1 of cgroups says that there is no limit by a large number.
  const uint64_t cgroup = room.cgroup_bytes < room.installed_bytes ? room.cgroup_bytes : kNoLimit;
  const uint64_t address_space = resource_limit(RLIMIT_AS), file_size = resource_limit(RLIMIT_FSIZE);
  Check check{
      .name = "memory",
      .found = fmt::format("{} free of {}", size_text(room.system_bytes), size_text(room.installed_bytes)),
      .figures = {{"free_bytes", bytes_json(room.system_bytes)},
                  {"installed_bytes", bytes_json(room.installed_bytes)},
                  {"cgroup_bytes", bytes_json(cgroup)},
                  {"address_space_bytes", bytes_json(address_space)},
                  {"file_size_bytes", bytes_json(file_size)}}};
  add_limit(check, "the cgroup", cgroup, room.system_bytes,
            "the cgroup's limit decides: raise the container's (docker run --memory), or the slice's");
  add_limit(check, "ulimit -v", address_space, kNoLimit,
            "ulimit -v unlimited, before the program is started");
  add_limit(check, "ulimit -f", file_size, kNoLimit, "ulimit -f unlimited: shards have some GB each");
  return check;
}

Check check_disk(const fs::path& folder) {
  const Disk disk = system_files().disk(folder);
  const std::string place = system_files().real_path(disk.folder).string();
  const auto rates = probe_disk(system_files(), folder);
  Check check{.name = "disk",
              .found = fmt::format("{}: {} free", place, size_text(disk.free_bytes)),
              .figures = {{"folder", place},
                          {"disk_free_bytes", disk.free_bytes},
                          {"read_bytes_per_second", rates ? Json(rates->read_bytes_per_second) : Json()},
                          {"write_bytes_per_second", rates ? Json(rates->write_bytes_per_second) : Json()}}};
  if (rates) {
    check.found += fmt::format("; reads {}, writes {}", rate_text(rates->read_bytes_per_second),
                               rate_text(rates->write_bytes_per_second));
  } else if (!disk.is_writable) {
    check.found += "; may not be written to";
    check.remedy = "name a folder that may: nibblecast doctor FOLDER";
  } else {
    check.found += "; not measured";
    check.remedy = "measuring takes 256 MiB and a disk with unnamed files (O_TMPFILE) and direct requests";
  }
  return check;
}

Check check_line(const std::string& source) {
  Check check{
      .name = "line", .found = source, .figures = {{"source", source}, {"bytes_per_second", nullptr}}};
  try {
    const auto rate = probe_line(open_source(source, false));
    check.found += rate ? ": " + rate_text(*rate) : ": is on this machine, or nothing came";
    if (rate)
      check.figures["bytes_per_second"] = *rate;
    else
      check.remedy = "name a model on a server: hf://OWNER/NAME";
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    check.found = error.what();
    check.remedy = error.detail().hint.empty() ? "see what the server says" : error.detail().hint;
  }
  return check;
}

Check check_certificates() {
  Check check{.name = "https", .found = "", .figures = {{"certificates", nullptr}}};
  try {
    make_http_transport();
  } catch (const Error& error) {
    check.found = error.problem();
    check.remedy = error.detail().hint;
    return check;
  }
  const std::string bundle = certificate_bundle();
  check.found = "certificates are checked against " + (bundle.empty() ? "none" : bundle);
  if (!bundle.empty()) check.figures["certificates"] = bundle;
  if (bundle.empty())
    check.remedy = "install the package ca-certificates, or name a bundle in SSL_CERT_FILE";
  else if (!system_files().status(bundle))
    check.remedy = "there is no such file: SSL_CERT_FILE, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE name it";
  return check;
}

std::vector<Check> check_build() {
  const BuildInfo build = build_info();
  const std::string toolkit = build.cuda;
  Check cuda{.name = "cuda",
             .found = toolkit.empty() ? "not built in" : "built with toolkit " + toolkit,
             .figures = {{"toolkit", toolkit.empty() ? Json() : Json(toolkit)}}};
  if (toolkit.empty()) cuda.remedy = "build it where the CUDA toolkit, 12.8 or later, is on PATH";
  Check parquet{.name = "parquet",
                .found = build.parquet ? "built in" : "not built in",
                .figures = {{"built_in", build.parquet}}};
  if (!build.parquet)
    parquet.remedy = "`make parquet` builds it in; JSON lines, CSV and plain text are read anyway";
  return {std::move(cuda), std::move(parquet)};
}

}  // namespace nibblecast
