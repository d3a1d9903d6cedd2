# bf_nvcc_program(NAME SOURCE [CUDART static shared] [FOLDER bin|e2e] [CODE ...] [OPTIONS ...] [LIBS ...]): compiles SOURCE
# with plain nvcc to <build>/<folder>/NAME, over the static runtime library; over the shared one it is NAME_shared. CMake's
# CUDA language is not used, because its compiler test wants a toolkit that can do more than build programs. The code is PTX
# for compute capability 7.5: a real GPU's driver compiles it when it is loaded, and the software GPU interprets it. CODE
# names others, for programs that need them: compute_90 is PTX, sm_90 is machine code. Every program is a dependency of the
# target `cuda_programs`.
if(NOT TARGET cuda_programs)
  add_custom_target(cuda_programs ALL)
endif()

function(bf_nvcc_program name source)
  cmake_parse_arguments(ARG "" "FOLDER" "CUDART;CODE;OPTIONS;LIBS" ${ARGN})
  if(NOT ARG_CUDART)
    set(ARG_CUDART static)
  endif()
  if(NOT ARG_FOLDER)
    set(ARG_FOLDER bin)
  endif()
  if(NOT ARG_CODE)
    set(ARG_CODE compute_75)
  endif()
  get_filename_component(source ${source} ABSOLUTE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/${ARG_FOLDER})
  set(architecture -Wno-deprecated-gpu-targets)
  foreach(code ${ARG_CODE})
    string(REGEX REPLACE "^.*_" "arch=compute_" virtual ${code})
    list(APPEND architecture -gencode=${virtual},code=${code})
  endforeach()
  add_custom_command(OUTPUT ${object}
    COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${BF_NVCC} ${architecture} -O2 -std=c++17 ${ARG_OPTIONS} -MD -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d VERBATIM)
  set(outputs "")
  foreach(cudart ${ARG_CUDART})
    set(output ${CMAKE_BINARY_DIR}/${ARG_FOLDER}/${name})
    if(cudart STREQUAL shared)
      string(APPEND output _shared)
    endif()
    add_custom_command(OUTPUT ${output}
      COMMAND ${BF_NVCC} ${architecture} -cudart=${cudart} ${object} -o ${output} ${ARG_LIBS}
      DEPENDS ${object} VERBATIM)
    list(APPEND outputs ${output})
  endforeach()
  add_custom_target(program_${ARG_FOLDER}_${name} DEPENDS ${outputs})
  add_dependencies(cuda_programs program_${ARG_FOLDER}_${name})
endfunction()
