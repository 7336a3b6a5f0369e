// calibration/pattern_cuts.h - where a text may be cut so that no match of a pattern can notice.
//
// A pattern's single-character parts (a class, a literal character, \s...) are its atoms. Which atom can
// stand right behind which in a match follows from the pattern's structure alone (the follow sets of
// Glushkov's automaton; here sets only grow beyond what can happen: quantifiers repeat without end, lazy and
// possessive ones like greedy ones). So if no atom that matches character x is followed by one that matches
// y, then no match, and no attempt at one, takes y behind x: the search in what stands before a cut between x
// and y finds the same as in the whole text. It reads y at most to reject it, which the end of the text does
// too, but for a lookahead: x must not be matched by an atom behind which one can stand. What stands behind
// the cut is searched from the cut on in both cases, because patterns that look back are not understood.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/pattern.h"

namespace nibblecast {

// Immutable: safe from several threads.
class PatternCuts {
 public:
  // nullopt: the pattern has parts that are not understood here (anchors, lookbehind, back references,
  // lookahead at more than one character, options in the middle, more than 64 atoms), or matches the empty
  // text.
  static std::optional<PatternCuts> of(const std::string& expression);

  // The atoms that match a character, a bit each.
  uint64_t atoms_of(std::string_view character) const;
  // Whether a text may be cut between two characters, by their atoms.
  bool allow(uint64_t before, uint64_t behind) const;

 private:
  friend class PatternParser;
  struct Atom {
    Pattern pattern;
    bool ignores_case =
        false;  // may match several characters, or one for several: any beyond ASCII counts as matched
  };
  std::vector<Atom> atoms_;
  std::vector<uint64_t> follow_;  // of each atom
  uint64_t looks_on_ = 0;         // atoms behind which a lookahead can stand
};

}  // namespace nibblecast
