// pipeline/line_probe.h - how fast a source that is on a server arrives.
#pragma once

#include <optional>

#include "checkpoint/checkpoint.h"

namespace nibblecast {

// Bytes a second, of the first 64 MiB of the largest shard's data, or what of it comes in about two seconds,
// over as many requests as a run makes, without each connection's first. nullopt: the source is on this
// machine, or nothing came.
std::optional<double> probe_line(const Checkpoint& source);

}  // namespace nibblecast
