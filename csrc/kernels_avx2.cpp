// Kernels for processors with AVX2.

#include "kernels_std.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define FREQDIFF_AVX2
#define FREQDIFF_LANES 8

namespace freqdiff {
namespace avx2 {

#include "kernels_isa.h"

}  // namespace avx2

const Kernels avx2_kernels = avx2::make_kernels<float>("avx2");

}  // namespace freqdiff

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif  // __x86_64__
