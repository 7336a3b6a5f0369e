// remote/certificates.h - which authorities servers' certificates are checked against.
#pragma once

#include <string>

namespace nibblecast {

// The path of a file: what SSL_CERT_FILE, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names, whether it is there or
// not, else the system's. Empty: there is none.
std::string certificate_bundle();

}  // namespace nibblecast
