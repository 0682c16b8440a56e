# Read by llama-cpp-python's CMakeLists.txt right after its project(), before anything is configured (see build.py).

# llama-common serves llama.cpp's own programs; the Python package never loads it, and it is a third of the build.
# The package forces the cache entry ON; a plain variable goes before the cache.
set(LLAMA_BUILD_COMMON OFF)

# One libllama.so instead of three: a wheel stores the links from .so to .so.0 to .so.0.5.0 as copies.
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)

if(EDGEKIT_AMX STREQUAL "repair")
    add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include \"${CMAKE_CURRENT_LIST_DIR}/amx_tile_loadconfig.h\">")
elseif(EDGEKIT_AMX STREQUAL "off")
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:SHELL:-mno-amx-tile -mno-amx-int8 -mno-amx-bf16>")
endif()

# mtmd's fifty model files each parse the same headers, half of the time that is left: compile them in batches, as
# llama.cpp does with its own models. The target exists only after this file was read, so this runs at the end.
function(edgekit_batch_mtmd_models)
    if(NOT TARGET mtmd)
        return()
    endif()
    get_target_property(folder mtmd SOURCE_DIR)
    get_target_property(others mtmd SOURCES)
    list(FILTER others EXCLUDE REGEX "^models/")
    list(TRANSFORM others PREPEND "${folder}/")
    set_source_files_properties(${others} TARGET_DIRECTORY mtmd PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    set_target_properties(mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
endfunction()
cmake_language(DEFER CALL edgekit_batch_mtmd_models)
