// tests/cli/doc_sandbox.h - a folder in which a page's command lines run, with tiny models in the place of
// those they name.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "testing.h"
#ifdef NIBBLECAST_HTTP
#include "remote/hub_server.h"
#endif

namespace nibblecast::testing {

struct ShellResult {
  int exit_code = -1;
  std::string output;  // stdout and stderr together
};

class DocSandbox {
 public:
  DocSandbox();
  ~DocSandbox();
  DocSandbox(const DocSandbox&) = delete;
  DocSandbox& operator=(const DocSandbox&) = delete;

  // Runs it by the shell. Before that what it reads is made, by the names that pages use (a source, texts, an
  // amax file, an output, an evaluation, a recipe), unless an earlier command made it; what it makes is
  // removed. Presets become tiny ones, /models, /data and /tmp this folder, hf:// addresses those of an
  // imitated Hub.
  ShellResult run(const std::string& command);

 private:
  void prepare(const std::string& command);
  void supply(const std::string& name);
  void supply_hub(const std::string& address);
  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }

  TemporaryFolder folder_;
  std::string endpoint_;  // of the Hub that the command asks
#ifdef NIBBLECAST_HTTP
  std::map<std::string, std::unique_ptr<HubServer>> hubs_;  // by OWNER/NAME
#endif
};

}  // namespace nibblecast::testing
