# Build helpers: strata_library(), strata_program(), strata_test(), strata_fuzzer(), strata_bench(),
# and the warning, sanitizer and coverage flags of the whole project in one place.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(PkgConfig REQUIRED)
if(STRATA_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

add_library(strata_flags INTERFACE)
target_compile_options(strata_flags INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-align -Wunused
  -Woverloaded-virtual -Wconversion -Wno-sign-conversion -Wdouble-promotion -Wformat=2
  -Wimplicit-fallthrough -fno-strict-aliasing)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(strata_flags INTERFACE -Wthread-safety -Wno-missing-braces)
else()
  # SAFETY: gcc 12 reports false positives of all but the last through inlined std::variant, std::vector and std::string, more of them where
  # these are precompiled and so are no system headers any more; the last is a note on its own past.
  target_compile_options(strata_flags INTERFACE -Wno-maybe-uninitialized -Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread
    -Wno-array-bounds -Wno-free-nonheap-object -Wno-use-after-free -Wno-dangling-pointer -Wno-psabi)
endif()
target_include_directories(strata_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_link_libraries(strata_flags INTERFACE Threads::Threads)
if(STRATA_SANITIZE)
  target_compile_options(strata_flags INTERFACE -fsanitize=${STRATA_SANITIZE} -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  target_link_options(strata_flags INTERFACE -fsanitize=${STRATA_SANITIZE})
  target_compile_definitions(strata_flags INTERFACE STRATA_SANITIZED=1)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # clang 14 cannot place this check's data before the parts of a coroutine ("Cannot represent a difference across sections").
    target_compile_options(strata_flags INTERFACE -fno-sanitize=function)
  endif()
endif()
if(STRATA_COVERAGE)
  target_compile_options(strata_flags INTERFACE --coverage)
  target_link_options(strata_flags INTERFACE --coverage)
endif()

# The linker: lld links the test programs of a full build in a tenth of the time.
find_program(STRATA_LLD ld.lld)
if(STRATA_LLD)
  target_link_options(strata_flags INTERFACE -fuse-ld=lld)
endif()

# Tests are compiled with -O1: what is timed is in the libraries, and a full build is a minute shorter.
set(strata_test_options $<$<CONFIG:RelWithDebInfo>:-O1>)

# Precompiled headers: the standard library, fmt and GoogleTest are a third of a full build. Off with a compiler cache, which
# could not share what it keeps between folders, and with clang, whose builds show a missing #include.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(precompile ON)
else()
  set(precompile OFF)
endif()
option(STRATA_PRECOMPILE "Precompile the headers of libraries" ${precompile})
if(STRATA_PRECOMPILE)
  set(standard_headers <algorithm> <array> <atomic> <bit> <charconv> <chrono> <coroutine> <cstdint> <cstring> <deque> <filesystem>
      <fstream> <functional> <map> <memory> <mutex> <optional> <random> <set> <span> <string> <string_view> <thread>
      <unordered_map> <utility> <variant> <vector> <fmt/format.h>)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled.cc CONTENT "// Precompiled: a source for the targets that make the headers.\n")
  add_library(strata_precompiled OBJECT ${CMAKE_BINARY_DIR}/precompiled.cc)
  target_link_libraries(strata_precompiled PRIVATE strata_flags fmt::fmt)
  target_precompile_headers(strata_precompiled PRIVATE ${standard_headers})
  if(STRATA_TESTS)
    add_library(strata_precompiled_test OBJECT ${CMAKE_BINARY_DIR}/precompiled.cc)
    target_link_libraries(strata_precompiled_test PRIVATE strata_flags fmt::fmt GTest::gtest)
    target_precompile_headers(strata_precompiled_test PRIVATE ${standard_headers} <gtest/gtest.h>)
    # As programs are compiled: what is not the same in both is refused.
    set_target_properties(strata_precompiled_test PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(strata_precompiled_test PRIVATE -fPIE ${strata_test_options})
  endif()
endif()

# strata_precompile(TARGET HEADERS): TARGET is compiled with the precompiled headers of the target HEADERS, where there are any.
function(strata_precompile target headers)
  if(STRATA_PRECOMPILE)
    target_precompile_headers(${target} REUSE_FROM ${headers})
  endif()
endfunction()

# strata_library(NAME [DEPS target...]): every *.cc below the calling folder but tests becomes the static library
# strata_NAME; every *_test.cc becomes part of the test program NAME_test (label "unit").
function(strata_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc ${CMAKE_CURRENT_SOURCE_DIR}/*.S)
  foreach(pattern ${ARG_EXCLUDE})
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(sources)
    add_library(strata_${name} STATIC ${sources})
    target_link_libraries(strata_${name} PUBLIC ${ARG_DEPS} PRIVATE strata_flags)
    target_include_directories(strata_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
    strata_precompile(strata_${name} strata_precompiled)
  else()
    add_library(strata_${name} INTERFACE)
    target_link_libraries(strata_${name} INTERFACE ${ARG_DEPS})
  endif()
  if(STRATA_TESTS AND tests)
    strata_test(${name}_test SOURCES ${tests} DEPS strata_${name} LABELS unit)
  endif()
endfunction()

# strata_program(NAME SOURCES file... [DEPS target...]): an executable in bin/.
function(strata_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} strata_flags)
endfunction()

# strata_test(NAME SOURCES file... [DEPS target...] [LABELS label...]): a GoogleTest program, one CTest entry a test.
function(strata_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} strata_flags GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${strata_test_options})
  strata_precompile(${name} strata_precompiled_test)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

# strata_fuzzer(NAME SOURCES file... [DEPS target...]): a libFuzzer target with seeds in fuzz/corpus/NAME.
function(strata_fuzzer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(fuzz_${name} ${ARG_SOURCES})
  target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(fuzz_${name} PRIVATE ${ARG_DEPS} strata_flags)
  set_target_properties(fuzz_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
endfunction()

# strata_bench(NAME SOURCES file... [DEPS target...]): a Google Benchmark program.
function(strata_bench name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  find_package(benchmark REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} strata_flags benchmark::benchmark benchmark::benchmark_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
endfunction()
