// plan/weight_sample.h - tells a model from another with the same headers and config: a base and its
// fine-tune.
#pragma once

#include <string>

#include "checkpoint/checkpoint.h"

namespace nibblecast {

// Hash (hex) of the first 16 KiB of every tensor but the experts', of which only those of number 0 count:
// norm vectors whole, and a part of each dense weight, which adapters and fine-tunes change. Some 2,000 small
// reads in V4-Pro. Depends on names and bytes, not on shards. Of a
// source on a server they are fetched at once, vectors whole. Errors: kIo.
std::string weight_sample(const Checkpoint& source);

}  // namespace nibblecast
