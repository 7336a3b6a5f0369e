# nc_report(out): writes a source file that holds the report's page (src/pipeline/report/) and D3, and sets `out` to its
# path. D3 is Debian's (package node-d3), found and not kept here, as all libraries are. Elsewhere: -DD3_FILE=.../d3.min.js,
# version 5.
find_file(D3_FILE d3.min.js PATHS /usr/share/nodejs/d3/dist /usr/share/javascript/d3 NO_DEFAULT_PATH
          DOC "D3 version 5, minified; of package node-d3")
if(NOT D3_FILE)
  message(FATAL_ERROR "d3.min.js is missing: install node-d3 (tools/install-deps), or name the file of version 5 with -DD3_FILE=")
endif()
file(READ ${D3_FILE} d3_begin LIMIT 80)
if(NOT d3_begin MATCHES "d3js.org v5")
  message(FATAL_ERROR "${D3_FILE} is not version 5 of D3: ${d3_begin}")
endif()

function(nc_report out)
  set(folder ${CMAKE_CURRENT_SOURCE_DIR}/report)
  set(constants "")
  foreach(part Template:${folder}/page.html Style:${folder}/page.css Script:${folder}/page.js D3:${D3_FILE})
    string(REGEX MATCH "^([^:]+):(.*)$" part "${part}")
    set(name ${CMAKE_MATCH_1})
    set(file ${CMAKE_MATCH_2})
    set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
    file(READ ${file} text)
    string(APPEND constants "constinit const std::string_view kReport${name} = R\"report(${text})report\";\n")
  endforeach()
  set(source ${CMAKE_CURRENT_BINARY_DIR}/report_page.cpp)
  file(CONFIGURE OUTPUT ${source} @ONLY CONTENT [[
#include "pipeline/report_page.h"

namespace nibblecast {

@constants@
}  // namespace nibblecast
]])
  set(${out} ${source} PARENT_SCOPE)
endfunction()
