// cli/suggestion.h - what somebody meant who typed a word that is not known.
#pragma once

#include <span>
#include <string>

namespace nibblecast {

// The known word that `word` begins, or that is nearest to it by letters put in, left out, replaced or
// swapped: a third of its letters at most. Empty where none is near.
std::string nearest_word(const std::string& word, std::span<const std::string> known);

}  // namespace nibblecast
