# Read as llama_build.cmake is, for a build that goes to other machines: the same sources give the same bytes, whatever
# the folder they lay in. Assertions name their source file.
include("${CMAKE_CURRENT_LIST_DIR}/llama_build.cmake")
add_compile_options("-ffile-prefix-map=${CMAKE_BINARY_DIR}=build" "-ffile-prefix-map=${CMAKE_SOURCE_DIR}=source")
