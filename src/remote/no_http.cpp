#include "base/error.h"
#include "remote/http.h"

namespace nibblecast {

std::unique_ptr<HttpTransport> make_http_transport() {
  throw Error(ErrorKind::kUnsupported, {}, "this build reads no sources over HTTP",
              {.hint = "build with -DHTTP=ON (libcurl), or download the model and name its folder"});
}

}  // namespace nibblecast
