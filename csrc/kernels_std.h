// What the kernels need from outside. Included before the target is chosen: code of these headers
// must stay in the base instruction set, because the linker keeps one copy of it for all sets.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "kernels.h"

// Every function that takes a vector is inlined, so its calling convention does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"
// GCC's own intrinsics start from an undefined register.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
