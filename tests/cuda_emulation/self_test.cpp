// Small kernels that test the emulation itself.

#include "entry.h"
#include "mma.cuh"

using namespace freqdiff;

namespace {

__global__ void sum(const float* values, float* result, int count) {
  float* parts = dynamic_shared<float>();
  float total = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    total += values[i];
  }
  for (int bits = 16; bits > 0; bits /= 2) total += __shfl_xor_sync(~0u, total, bits);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  total = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0.0f;
  for (int delta = 16; delta > 0; delta /= 2) total += __shfl_down_sync(~0u, total, delta);
  if (threadIdx.x == 0) result[blockIdx.x] = total;
}

// One tile: c = a b with b in rows of 16, or in columns where `by_columns` (8
// rows of 16).
template <typename T>
__global__ void tile(const uint4* a, const uint4* b, float* c, bool by_columns) {
  uint4* shared = dynamic_shared<uint4>();
  const int lane = threadIdx.x;
  // a: 16 rows of two 16-byte pieces; b: 16 rows of one, or 8 of two.
  copy_async(shared + lane, a + lane, true);
  copy_async(shared + 32 + lane % 16, b + lane % 16, true);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  uint32_t left[4], right[4];
  load_matrices(left, shared + lane % 16 * 2 + lane / 16);
  if (by_columns) {
    load_matrices(right, shared + 32 + lane % 8 * 2 + lane / 8 % 2);
  } else {
    load_transposed(right, shared + 32 + lane % 16);
  }
  float result[4] = {};
  mma<T>(result, left, {right[0], right[1]});
  for (int i = 0; i < 4; ++i) {
    c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = result[i];
  }
}

__global__ void divergent(int kind, float* out) {
  float* shared = dynamic_shared<float>();
  const int thread = threadIdx.x;
  switch (kind) {
    case 0:
      if (thread == 5) return;
      __syncthreads();
      break;
    case 1:
      if (thread < 32) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case 2:
      if (thread % 32 == 3) return;
      __syncwarp();
      break;
    case 3:
      shared[64 + thread] = 0;
      break;
    case 4:
      out[thread] = reinterpret_cast<float4*>(shared + 1)->x;
      break;
    case 5:
      out[thread] = shared[thread];
      break;
    case 6:
      out[blockDim.x + thread] = 1;
      break;
    case 7:
      if (thread == 0) copy_async(shared, shared + 32, true);
      commit_copies();
      out[thread] = shared[0];
      break;
    case 8:
      shared[thread] = float(thread);
      out[thread] = shared[thread ^ 32];
      break;
    case 9:
      shared[-1] = 0;
      break;
  }
}

}  // namespace

extern "C" {

const char* run_sum(const float* values, float* result, int64_t count, int64_t blocks) {
  return report(
      launch(&sum, dim3(unsigned(blocks)), 128, 4 * sizeof(float), nullptr, values, result, count));
}

const char* run_tile(const uint4* a, const uint4* b, float* c, int64_t by_columns, int64_t half) {
  auto* kernel = half ? &tile<__half> : &tile<__nv_bfloat16>;
  return report(launch(kernel, 1, 32, 48 * sizeof(uint4), nullptr, a, b, c, by_columns != 0));
}

const char* run_divergent(int64_t kind, float* out) {
  return report(launch(&divergent, 1, 64, 64 * sizeof(float), nullptr, kind, out));
}
}
