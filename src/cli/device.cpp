#include "cli/device.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/cuda_devices.h"
#include "base/error.h"

namespace nibblecast {

namespace {

ChosenDevice on_cpu(const CommonOptions& options, const std::string& text) {
  ChosenDevice device{.forward = {}, .text = text};
  const auto warn = [&](const char* option) {
    device.warnings.push_back(fmt::format("{} has no effect: the run is on {}", option, text));
  };
  if (options.device_memory) warn("--device-memory");
  if (options.device_profile) warn("--device-profile");
  return device;
}

}  // namespace

ChosenDevice choose_device(const CommonOptions& options) {
  if (options.device == "cpu") return on_cpu(options, "cpu");
  const CudaDevices found = find_cuda_devices();
  const bool asked_for = options.device != "auto";
  auto device = found.usable.begin();
  if (options.device_ordinal) {
    device = std::ranges::find_if(found.usable, [&](const CudaDevice& one) {
      return static_cast<uint64_t>(one.ordinal) == *options.device_ordinal;
    });
  }
  if (device == found.usable.end()) {
    const std::string reason = found.usable.empty()
                                   ? found.absence
                                   : fmt::format("there is no CUDA device {}", *options.device_ordinal);
    if (asked_for) {
      throw Error(ErrorKind::kRefused, {}, fmt::format("--device {}: {}", options.device, reason),
                  {.hint = "--device cpu does without"});
    }
    return on_cpu(options, fmt::format("cpu ({})", reason));
  }
  ForwardDevice forward;
  forward.cuda = device->ordinal;
  forward.profile = options.device_profile;
  forward.memory_bytes = usable_cuda_memory(device->ordinal);
  if (options.device_memory) forward.memory_bytes = std::min(forward.memory_bytes, *options.device_memory);
  return {.forward = forward, .text = fmt::format("cuda:{} {}", device->ordinal, device->name)};
}

}  // namespace nibblecast
