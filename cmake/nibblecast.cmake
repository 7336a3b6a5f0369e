# Flags every target of the project compiles with, and small functions to declare targets.

add_library(nc_flags INTERFACE)
target_link_libraries(nc_flags INTERFACE OpenMP::OpenMP_CXX)
target_include_directories(nc_flags INTERFACE ${PROJECT_SOURCE_DIR}/src)
# No contraction into fused multiply-adds: results must not depend on the compiler's taste.
# -Wrestrict and the others: GCC 12 sees overlaps and overflows in std::string's own code (GCC bugs 105651,
# 105329), and shows them where that code comes from a precompiled header.
target_compile_options(nc_flags INTERFACE
  "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict;-Wno-array-bounds;-Wno-stringop-overflow;-Wno-stringop-overread>"
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wconversion;-Wno-sign-conversion;-ffp-contract=off>"
  "$<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${WERROR}>>:-Werror>"
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Xcompiler=-Wall,-Wextra,-ffp-contract=off>"
  "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${WERROR}>>:-Werror=all-warnings>")
target_compile_definitions(nc_flags INTERFACE NIBBLECAST_VERSION="${PROJECT_VERSION}"
                                              $<$<BOOL:${SIMD}>:NIBBLECAST_SIMD>)
if(SANITIZE)
  target_compile_options(nc_flags INTERFACE -fsanitize=${SANITIZE} -fno-omit-frame-pointer
                                            -fno-sanitize-recover=all)
  target_link_options(nc_flags INTERFACE -fsanitize=${SANITIZE})
endif()
if(FUZZ)  # harmless in what is no fuzzer, so that one build serves both
  target_compile_options(nc_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# Headers that take longer to read than most of our files, read once: with them half of a file's time went there.
set(nc_slow_headers <nlohmann/json.hpp> <fmt/format.h> <algorithm> <filesystem> <functional> <map> <memory>
                    <optional> <span> <string> <unordered_map> <vector>)
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/slow_headers.cpp CONTENT "")

# nc_precompiled(name headers...): a target whose precompiled headers others can use.
function(nc_precompiled name)
  add_library(${name} STATIC ${CMAKE_BINARY_DIR}/slow_headers.cpp)
  target_link_libraries(${name} PRIVATE nc_flags nlohmann_json::nlohmann_json fmt::fmt)
  target_precompile_headers(${name} PRIVATE ${nc_slow_headers} ${ARGN})
endfunction()
nc_precompiled(nc_headers)

# nc_alone(sources...): not compiled together with others (presets with CMAKE_UNITY_BUILD): their names collide.
macro(nc_alone)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endmacro()

# nc_library(name SOURCES... [LINK targets...] [OWN_HEADERS]): one static library per folder of src/.
# OWN_HEADERS: it does not use the precompiled ones, because its flags or headers are others.
function(nc_library name)
  cmake_parse_arguments(ARG "OWN_HEADERS" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC nc_flags ${ARG_LINK})
  if(NOT ARG_OWN_HEADERS)
    target_precompile_headers(${name} REUSE_FROM nc_headers)
  endif()
endfunction()

# nc_isa_sources(ISA sources...): flags of one instruction set for the files of its kernels only.
function(nc_isa_sources isa)
  if(isa STREQUAL "avx2")
    set(flags "-mavx2;-mfma;-mf16c")
  elseif(isa STREQUAL "avx512")
    # GCC 12 takes the undefined operands inside its own AVX-512 headers for ours (GCC bug 105593).
    set(flags "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx2;-mfma;-mf16c"
              "$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>;$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>")
  endif()
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "${flags}")
endfunction()

# nc_test(name SOURCES... [LINK targets...] [LABELS label]). Labels: gpu; oracle: wants the shared models;
# kernels: also in the build without kernels (preset `scalar`); faults: whole jobs, hundreds of times; unit: the
# others.
function(nc_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} nc_testing GTest::gmock GTest::gtest_main)
  target_precompile_headers(${name} REUSE_FROM nc_test_headers)
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  gtest_discover_tests(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 600 DISCOVERY_TIMEOUT 60)
endfunction()
