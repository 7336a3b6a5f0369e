// pipeline/report_page.h - src/pipeline/report/ and D3, as the build put them in (cmake/report.cmake).
#pragma once

#include <string_view>

namespace nibblecast {

// page.html, with @STYLE@, @D3@, @DATA@ and @SCRIPT@ where the others go.
extern const std::string_view kReportTemplate, kReportStyle, kReportScript, kReportD3;

}  // namespace nibblecast
