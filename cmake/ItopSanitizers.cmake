# ITOP_SANITIZE=address,undefined or thread: instruments every target (see CMakePresets.json).
set(ITOP_SANITIZE "" CACHE STRING "Comma-separated sanitizers, empty for none")
if(ITOP_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${ITOP_SANITIZE}>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>
                      $<$<COMPILE_LANGUAGE:CXX>:-g>)
  add_link_options(-fsanitize=${ITOP_SANITIZE})
endif()
