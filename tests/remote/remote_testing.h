// tests/remote/remote_testing.h - requests to servers on this machine, tried again without long pauses.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>

#include "remote/http.h"
#include "remote/hub.h"
#include "remote/hub_server.h"
#include "testing.h"

namespace nibblecast::testing {

inline std::shared_ptr<HttpTransport> test_transport() {
  ::setenv("no_proxy", "127.0.0.1,localhost", 1);
  static const std::shared_ptr<HttpTransport> transport = make_http_transport();
  return transport;
}

inline RetryPolicy quick_tries() { return {.most_tries = 6, .first_pause = 0.001, .longest_pause = 0.002}; }

inline HubSettings settings_of(const HubServer& hub) {
  return {.endpoint = hub.endpoint(), .token = hub.token, .retry = quick_tries()};
}

inline HubAddress address_of(const HubServer& hub) {
  const size_t slash = hub.id().find('/');
  return {.owner = hub.id().substr(0, slash), .name = hub.id().substr(slash + 1), .revision = "main"};
}

inline std::unique_ptr<RemoteFolder> open_hub(const HubServer& hub) {
  return open_hub_folder(settings_of(hub), address_of(hub), test_transport(), system_files());
}

inline std::string text_of(File& file) {
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace nibblecast::testing
