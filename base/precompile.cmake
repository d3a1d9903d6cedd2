# Gives every C++ target the headers of precompiled.h, compiled once for libraries and once for programs, which are
# compiled as position-independent in different ways. Targets with compile options of their own go without. The others'
# sources are compiled eight at a time: most of what a file takes is the same templates again, and again optimised. So names
# in anonymous namespaces are used once in a target; a source that others link without the rest of its library says so
# (SKIP_UNITY_BUILD_INCLUSION).
foreach(kind STATIC EXECUTABLE)
  file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/generated/precompile_${kind}.cc CONTENT "int main() {}\n")
  if(kind STREQUAL EXECUTABLE)
    add_executable(bf_precompile_EXECUTABLE)
  else()
    add_library(bf_precompile_STATIC STATIC)
  endif()
  target_sources(bf_precompile_${kind} PRIVATE ${CMAKE_BINARY_DIR}/generated/precompile_${kind}.cc)
  target_link_libraries(bf_precompile_${kind} PRIVATE bf_options)
  add_dependencies(bf_precompile_${kind} bf_api_generate)
  target_precompile_headers(bf_precompile_${kind} PRIVATE base/precompiled.h)
endforeach()

# GCC frees no memory until it has this many KiB: a tenth of its time goes into looking for what it could free.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(bf_options INTERFACE "SHELL:--param ggc-min-heapsize=1048576")
endif()

function(bf_precompile folder)
  get_property(targets DIRECTORY ${folder} PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target ${targets})
    get_target_property(kind ${target} TYPE)
    get_target_property(options ${target} COMPILE_OPTIONS)
    if(options OR NOT kind MATCHES "_LIBRARY$|EXECUTABLE" OR kind STREQUAL "INTERFACE_LIBRARY" OR target MATCHES "^bf_precompile")
      continue()
    endif()
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON)
    if(kind STREQUAL "EXECUTABLE")
      target_precompile_headers(${target} REUSE_FROM bf_precompile_EXECUTABLE)
    else()
      target_precompile_headers(${target} REUSE_FROM bf_precompile_STATIC)
    endif()
  endforeach()
  get_property(folders DIRECTORY ${folder} PROPERTY SUBDIRECTORIES)
  foreach(next ${folders})
    bf_precompile(${next})
  endforeach()
endfunction()
bf_precompile(${CMAKE_SOURCE_DIR})
