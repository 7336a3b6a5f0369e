// remote/environment.h - variables of the environment that say how servers are reached.
#pragma once

#include <cstdlib>
#include <initializer_list>

namespace nibblecast {

// The first of them that is set and not empty; nullptr: none.
inline const char* environment(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name); value != nullptr && *value != 0) return value;
  }
  return nullptr;
}

}  // namespace nibblecast
