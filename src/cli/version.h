// cli/version.h - what `nibblecast --version` prints.
#pragma once

#include <string>

namespace nibblecast {

// The version, then a line each: commit, CUDA, Parquet, instruction sets built in and this CPU's, oneDNN.
std::string version_text();

}  // namespace nibblecast
