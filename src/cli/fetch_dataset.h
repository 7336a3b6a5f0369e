// cli/fetch_dataset.h - published data sets that are not on this machine.
#pragma once

#include "calibration/hub_dataset.h"

namespace nibblecast {

// Puts the first file of each split into the Hub's cache, as the Hub's own client would, and says so on
// stderr. Nothing with HF_HUB_OFFLINE. What an interrupted download left is gone on with. Error, with the
// command that downloads it: the Hub does not give it (as open_hub_folder() and reading), or no room on the
// disk.
void fetch_dataset(const HubDataset& dataset);

}  // namespace nibblecast
