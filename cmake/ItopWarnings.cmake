# The warnings every target of the project is built with; they are errors where ITOP_WERROR is on (it is in CI).
option(ITOP_WERROR "Warnings are errors" OFF)

add_library(itop_warnings INTERFACE)
target_compile_options(itop_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wno-psabi>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${ITOP_WERROR}>>:-Werror>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${ITOP_WERROR}>>:--Werror=all-warnings>)
