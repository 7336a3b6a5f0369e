# Run at every build: writes OUT anew where the commit, or what is changed since, is another than the file says.
execute_process(COMMAND git rev-parse --short=10 HEAD WORKING_DIRECTORY ${SOURCE}
                OUTPUT_VARIABLE commit ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
execute_process(COMMAND git diff HEAD -- src recipes cmake CMakeLists.txt
                COMMAND git hash-object --stdin
                WORKING_DIRECTORY ${SOURCE}
                OUTPUT_VARIABLE changes ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
set(nothing e69de29bb2d1d6434b8b29ae775ad8c2e48c5391)  # git's name of the empty text
if(commit AND changes AND NOT changes STREQUAL nothing)
  string(SUBSTRING "${changes}" 0 8 changes)
  string(APPEND commit ".${changes}")
endif()
set(text "// Made by cmake/write_build_info.cmake.
#include \"base/build_info.h\"

namespace nibblecast {

BuildInfo build_info() {
  return {.version = \"${VERSION}\", .commit = \"${commit}\", .cuda = \"${CUDA_VERSION}\",
          .parquet = ${PARQUET}, .simd = ${SIMD}};
}

std::string build_version() {
  const BuildInfo info = build_info();
  const std::string commit = info.commit;
  return commit.empty() ? info.version : info.version + (\"+\" + commit);
}

}  // namespace nibblecast
")
set(before "")
if(EXISTS ${OUT})
  file(READ ${OUT} before)
endif()
if(NOT text STREQUAL before)
  file(WRITE ${OUT} "${text}")
endif()
