// What device code stands on: the headers of CUDA, or the CPU emulation of the tests.
//
// Device code lives in .cuh files without torch. It gets shared memory by `dynamic_shared` and is
// started by `launch` alone, so that the tests can run the very same code without a GPU.

#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "emulation.h"
#endif

#include <cstddef>
#include <cstdint>

namespace freqdiff {

// The dynamic shared memory of the block, aligned to 16 bytes.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char freqdiff_shared[];
  return reinterpret_cast<T*>(freqdiff_shared);
#else
  return reinterpret_cast<T*>(emulation::state.shared);
#endif
}

// Starts kernel(arguments...), each argument converted to what the kernel takes.
template <typename... Parameters, typename... Arguments>
[[nodiscard]] cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                 size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
#ifdef __CUDACC__
  constexpr size_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
#else
  (void)stream;
  return emulation::run(grid, block, shared_bytes,
                        [=] { kernel(static_cast<Parameters>(arguments)...); });
#endif
}

}  // namespace freqdiff
