# What is installed, and the packages made of it: `make install`, `make deb` (CPack), `make wheel` (pyproject.toml).
# Man page and completions come from the program itself, so that there is one table of options.
include(GNUInstallDirs)
set(generated ${CMAKE_BINARY_DIR}/generated)
set(generated_files "")
# nc_generated(what file): `nibblecast generate WHAT` as a file.
macro(nc_generated what file)
  add_custom_command(OUTPUT ${generated}/${file}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${generated}
    COMMAND $<TARGET_FILE:nibblecast> generate ${what} > ${generated}/${file}
    DEPENDS nibblecast)
  list(APPEND generated_files ${generated}/${file})
endmacro()
nc_generated(man nibblecast.1)
nc_generated(bash nibblecast)
nc_generated(zsh _nibblecast)
nc_generated(fish nibblecast.fish)
add_custom_target(generated ALL DEPENDS ${generated_files})

# nc_install_shared(share component zsh_folder...): `share` is where man pages and the like go.
function(nc_install_shared share component)
  install(FILES ${generated}/nibblecast.1 DESTINATION ${share}/man/man1 COMPONENT ${component} ${ARGN})
  install(FILES ${generated}/nibblecast DESTINATION ${share}/bash-completion/completions COMPONENT ${component} ${ARGN})
  install(FILES ${generated}/nibblecast.fish DESTINATION ${share}/fish/vendor_completions.d COMPONENT ${component} ${ARGN})
endfunction()
# Arrow is no package of a distribution that we know: it goes along.
if(PARQUET)
  set_target_properties(nibblecast PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}/nibblecast")
  foreach(library ${PARQUET_LIBRARY} ${ARROW_LIBRARY})
    file(REAL_PATH ${library} library)
    install(FILES ${library} DESTINATION ${CMAKE_INSTALL_LIBDIR}/nibblecast COMPONENT program)
  endforeach()
  foreach(file LICENSE NOTICE)
    install(FILES ${ARROW_INCLUDE_DIR}/../${file}.txt DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/nibblecast RENAME ${file}.arrow
            COMPONENT program OPTIONAL)
  endforeach()
endif()
install(TARGETS nibblecast DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
nc_install_shared(${CMAKE_INSTALL_DATADIR} program)
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/nibblecast COMPONENT program)
install(FILES ${generated}/_nibblecast DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions COMPONENT zsh)
# Debian's zsh looks elsewhere, and its packages have a file of that name.
install(FILES ${generated}/_nibblecast DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions COMPONENT debian
        EXCLUDE_FROM_ALL)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/nibblecast RENAME copyright COMPONENT debian
        EXCLUDE_FROM_ALL)

# Of a wheel (scikit-build-core says where its data goes), beside python/nibblecast.
if(SKBUILD_DATA_DIR)
  install(TARGETS nibblecast DESTINATION nibblecast/bin COMPONENT wheel EXCLUDE_FROM_ALL)
  nc_install_shared(${SKBUILD_DATA_DIR}/share wheel EXCLUDE_FROM_ALL)
  install(FILES ${generated}/_nibblecast DESTINATION ${SKBUILD_DATA_DIR}/share/zsh/site-functions COMPONENT wheel
          EXCLUDE_FROM_ALL)
  # The licences of the libraries that go along (tools/make-wheel gathers them).
  install(DIRECTORY ${CMAKE_BINARY_DIR}/licenses DESTINATION nibblecast COMPONENT wheel OPTIONAL EXCLUDE_FROM_ALL)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME nibblecast)
set(CPACK_PACKAGE_CONTACT "nibblecast's maintainers <maintainers@users.noreply.nibblecast.example>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Turns checkpoints of large language models into NVFP4")
set(CPACK_PACKAGE_DESCRIPTION "Streams every weight once from the release's files to a calibrated NVFP4 checkpoint that
vLLM, SGLang and TensorRT-LLM load, and proves the output.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL program debian)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_DEBIAN_FILE_NAME nibblecast.deb)
if(PARQUET)
  cmake_path(GET PARQUET_LIBRARY PARENT_PATH arrow_folder)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${arrow_folder})
endif()
# The version is known when the package is made.
set(CPACK_PROJECT_CONFIG_FILE ${PROJECT_SOURCE_DIR}/cmake/package_version.cmake)
set(CPACK_NIBBLECAST_SOURCE ${PROJECT_SOURCE_DIR})
include(CPack)
