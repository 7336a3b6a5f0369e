// base/integers.h - small arithmetic that every folder needs.
#pragma once

namespace nibblecast {

// The least number of parts of `size` that hold `count`; count + size must not overflow.
template <class Count, class Size>
constexpr auto ceil_div(Count count, Size size) {
  return (count + size - 1) / size;
}

}  // namespace nibblecast
