# nc_recipes(out): writes a source file that holds recipes/*.yaml, and sets `out` to its path. Runs again when one of
# the listed files changes.
function(nc_recipes out)
  set(names nvfp4 nvfp4_experts_only nvfp4_mlp_only nvfp4_omlp_only w4a16_nvfp4)
  set(recipes "")
  foreach(name ${names})
    set(file ${PROJECT_SOURCE_DIR}/recipes/${name}.yaml)
    set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
    file(READ ${file} text)
    string(APPEND recipes "    {\"${name}\", R\"yaml(${text})yaml\"},\n")
  endforeach()
  set(source ${CMAKE_CURRENT_BINARY_DIR}/recipe_builtin.cpp)
  file(CONFIGURE OUTPUT ${source} @ONLY CONTENT [[
#include "plan/recipe_builtin.h"

namespace nibblecast {
namespace {

constexpr BuiltInRecipe kRecipes[] = {
@recipes@};

}  // namespace

constinit const std::span<const BuiltInRecipe> kBuiltInRecipes = kRecipes;

}  // namespace nibblecast
]])
  set(${out} ${source} PARENT_SCOPE)
endfunction()
