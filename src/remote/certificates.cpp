#include "remote/certificates.h"

#include <filesystem>
#include <system_error>

#include "remote/environment.h"

namespace nibblecast {

// Where Debian and Ubuntu, Fedora and RHEL, SUSE, and Alpine keep the bundle: a library that was built for
// one of them looks there alone.
std::string certificate_bundle() {
  if (const char* set = environment({"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"})) return set;
  for (const char* path : {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                           "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}) {
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored)) return path;
  }
  return {};
}

}  // namespace nibblecast
