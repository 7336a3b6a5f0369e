// cli/manual.h - the man page of the program (groff's man macros), of its table of options.
#pragma once

#include <string>

#include "cli/option_table.h"

namespace nibblecast {

// `version`: "0.1.0". The same table gives the same page: it holds no date.
std::string manual_page(const OptionTable& table, const std::string& version);

}  // namespace nibblecast
