// cli/inspect_parts.h - the three things that `inspect` shows, each as text and as JSON.
#pragma once

#include <string>

#include "base/json.h"
#include "calibration/amax_file.h"
#include "cli/stored_tensors.h"

namespace nibblecast {

// What one command printed, in both forms.
struct Shown {
  std::string text;
  Json json;
};

// Formats, bytes by kind, layers, experts, quantization_config.
Shown show_checkpoint(const std::string& path, const StoredFiles& stored);
// One tensor by its name or its module's: values, and what its scales say. kUsage if there is none.
Shown show_tensor(const StoredFiles& stored, const std::string& name);
// Maxima by layer, coverage, outliers.
Shown show_amax(const std::string& path, const AmaxFile& amax);

}  // namespace nibblecast
