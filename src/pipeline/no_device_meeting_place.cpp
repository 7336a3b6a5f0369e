// In builds without CUDA: no pass computes on a device.

#include "pipeline/meeting_place.h"

namespace nibblecast {

std::unique_ptr<MeetingPlace> make_device_meeting_place(int) { return nullptr; }

}  // namespace nibblecast
