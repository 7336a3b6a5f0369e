// `doctor`: every check has an answer, whatever the machine lacks.
#include <gmock/gmock.h>

#include <cstdlib>

#include "run_cli.h"

namespace nibblecast::testing {
namespace {

using ::testing::HasSubstr;

// The check of that name of a reply.
Json check_of(const Json& reply, const std::string& name) {
  for (const Json& check : reply.at("checks"))
    if (check.at("name") == name) return check;
  ADD_FAILURE() << name;
  return {};
}

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

TEST(Doctor, SaysWhatThereIs) {
  const TemporaryFolder folder;
  const CliResult result = run_cli({"doctor", folder.path().string()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* label :
       {"version ", "processor ", "products ", "gpu ", "memory ", "disk ", "https ", "cuda ", "parquet "})
    EXPECT_THAT("\n" + result.out, HasSubstr("\n" + std::string(label)));
  EXPECT_THAT(result.out, ::testing::Not(HasSubstr("\nline ")));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Doctor, FiguresForPrograms) {
  const TemporaryFolder folder;
  const Json reply = run_json({"doctor", folder.path().string()});
  EXPECT_GE(check_of(reply, "processor").at("processors"), 1);
  EXPECT_GT(check_of(reply, "products").at("fp32_flops_per_second"), 1e6);
  EXPECT_GT(check_of(reply, "memory").at("free_bytes"), 1 << 20);
  EXPECT_EQ(check_of(reply, "disk").at("folder"), std::filesystem::canonical(folder.path()).string());
  EXPECT_TRUE(check_of(reply, "gpu").at("devices").is_array());
}

TEST(Doctor, WhatIsMissingHasARemedy) {
  const Variable bundle("SSL_CERT_FILE", "/nowhere/bundle.crt");
  const Json reply = run_json({"doctor", "/proc", "--source", "/nowhere/model"});
  EXPECT_THAT(check_of(reply, "https").at("remedy"), HasSubstr("SSL_CERT_FILE"));
  EXPECT_TRUE(check_of(reply, "disk").at("write_bytes_per_second").is_null());
  EXPECT_TRUE(check_of(reply, "disk").at("remedy").is_string());
  EXPECT_THAT(check_of(reply, "line").at("found"), HasSubstr("/nowhere/model"));
  EXPECT_TRUE(check_of(reply, "line").at("bytes_per_second").is_null());
}

TEST(Doctor, TheLineToAModelHereIsNone) {
  const Json line = check_of(run_json({"doctor", "--source", tiny_checkpoint().string()}), "line");
  EXPECT_THAT(line.at("found"), HasSubstr("is on this machine"));
  EXPECT_THAT(line.at("remedy"), HasSubstr("hf://OWNER/NAME"));
}

}  // namespace
}  // namespace nibblecast::testing
