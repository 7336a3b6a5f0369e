// model/weights_only_family.h - families without a forward pass as Models, whose spec is NoForwardPass.
#pragma once

#include "model/family.h"

namespace nibblecast {

extern const Family kWeightsOnlyFamily;

}  // namespace nibblecast
