// tests/family_models.h - tiny models of families, with what transformers and ModelOpt make of them: those
// that the repository has (tests/model/golden, made by tools/make_hybrid_models.py) and those of
// ../shared/models.
#pragma once

#include <filesystem>
#include <string>

#include "testing.h"

namespace nibblecast::testing {

// Empty where there is no such model.
inline std::filesystem::path family_model(const std::string& family) {
  const auto golden = std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/model/golden" / family;
  return std::filesystem::exists(golden) ? golden : shared_model("families/" + family);
}

}  // namespace nibblecast::testing

#define SKIP_WITHOUT_FAMILY_MODEL(folder, family)                                   \
  const std::filesystem::path folder = ::nibblecast::testing::family_model(family); \
  if (folder.empty()) GTEST_SKIP() << "there is no model of " << (family)
