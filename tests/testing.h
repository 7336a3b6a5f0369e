// tests/testing.h - what several test suites share.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/error.h"

namespace nibblecast::testing {

// A folder of its own for one test, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "nibblecast-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// The shared test models beside the project, or empty where they are absent (then skip).
inline std::filesystem::path shared_model(const std::string& name) {
  const char* set = std::getenv("NIBBLECAST_TEST_MODELS");
  const std::filesystem::path models =
      set != nullptr ? std::filesystem::path(set)
                     : std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "../shared/models";
  const std::filesystem::path model = models / name;
  return std::filesystem::exists(model) ? model : std::filesystem::path();
}

// Runs `f`, which must throw Error of `kind` whose message holds every one of `parts`.
template <class F, class... Parts>
void expect_error(ErrorKind kind, const F& f, const Parts&... parts) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    const std::string message = error.what();
    for (const std::string& part : {std::string(parts)...}) {
      EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
    }
    return;
  }
  ADD_FAILURE() << "no error thrown";
}

}  // namespace nibblecast::testing

// Skips the test, saying so, where a clone has no shared models beside it.
#define SKIP_WITHOUT_SHARED_MODEL(variable, name)                                   \
  const std::filesystem::path variable = ::nibblecast::testing::shared_model(name); \
  if (variable.empty())                                                             \
  GTEST_SKIP() << "test model '" << name << "' is neither in ../shared/models nor in $NIBBLECAST_TEST_MODELS"
