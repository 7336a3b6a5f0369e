// cli/device.h - the device that --device names.
#pragma once

#include <string>
#include <vector>

#include "cli/common_options.h"
#include "model/forward_pass.h"

namespace nibblecast {

struct ChosenDevice {
  ForwardDevice forward;  // memory_bytes: what may be taken of the device's memory; 0 on the CPU
  std::string text;       // "cuda:0 NVIDIA H100 80GB HBM3", or "cpu" and why
  std::vector<std::string> warnings = {};  // options of a GPU that have no effect
};

// Errors: kRefused where the device that was asked for cannot be used; `auto` takes the first one, or the
// CPU.
ChosenDevice choose_device(const CommonOptions& options);

}  // namespace nibblecast
