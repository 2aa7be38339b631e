// Kernels for processors with AVX512.

#include "kernels_std.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define FREQDIFF_AVX512
#define FREQDIFF_LANES 16

namespace freqdiff {
namespace avx512 {

#include "kernels_isa.h"

}  // namespace avx512

const Kernels avx512_kernels = avx512::make_kernels<float>("avx512");

}  // namespace freqdiff

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif  // __x86_64__
