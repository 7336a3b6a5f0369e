# Flags every target of the project compiles with, and three small functions to declare targets.

add_library(nc_flags INTERFACE)
target_include_directories(nc_flags INTERFACE ${PROJECT_SOURCE_DIR}/src)
# No contraction into fused multiply-adds: results must not depend on the compiler's taste.
# -Wrestrict: GCC 12 sees overlaps in std::string's own code (GCC bug 105651).
target_compile_options(nc_flags INTERFACE
  "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>"
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

# nc_library(name SOURCES... [LINK targets...]): one static library per folder of src/.
function(nc_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC nc_flags ${ARG_LINK})
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

# nc_test(name SOURCES... [LINK targets...] [LABELS labels...])
function(nc_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} nc_testing GTest::gmock GTest::gtest_main)
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  gtest_discover_tests(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 600 DISCOVERY_TIMEOUT 60)
endfunction()
