// ddim_step: x' = kx x + k0 clamp(cx x + cf f + cy y). Memory bound: each thread moves 16 bytes of
// the widest operand. The meaning is in kernels/reference.py.

#pragma once

#include <algorithm>

#include "stored.cuh"

namespace freqdiff {

struct StepOperand {
  const void* data;  // null where there is no such operand
  Dtype dtype;
  int64_t strides[4];
};

struct StepLaunch {
  int64_t sizes[4];     // batch, channels, height, width
  StepOperand x, f, y;  // `out` has the dtype of x
  void* out;
  int64_t out_strides[4];
  const void* coefficients;  // (batch, 5), contiguous: cx, cf, cy, kx, k0
  bool double_coefficients, clamp;
};

constexpr int kStepThreads = 256;

template <typename S>
struct StepCoefficients {
  S x, f, y, out_x, out_estimate;

  __device__ StepCoefficients(const StepLaunch& job, int64_t batch) {
    S values[5];
    for (int i = 0; i < 5; ++i) {
      values[i] = job.double_coefficients ? S(as<double>(job.coefficients)[5 * batch + i])
                                          : S(as<float>(job.coefficients)[5 * batch + i]);
    }
    x = values[0], f = values[1], y = values[2], out_x = values[3], out_estimate = values[4];
  }

  // NaN stays: min and max of CUDA would drop it.
  __device__ S apply(const StepLaunch& job, S noisy, S output, S anchor) const {
    S estimate = x * noisy + f * output;
    if (job.y.data) estimate += y * anchor;
    if (job.clamp) {
      estimate = estimate < S(-1) ? S(-1) : estimate > S(1) ? S(1) : estimate;
    }
    return out_x * noisy + out_estimate * estimate;
  }
};

template <typename S>
__device__ __forceinline__ S read_one(const StepOperand& operand, int64_t index) {
  S result = 0;
  if (!operand.data) return result;
  with_float_type(operand.dtype, [&](auto type) {
    using T = decltype(type);
    result = S(widen(as<T>(operand.data)[index]));
  });
  return result;
}

template <typename S>
__device__ __forceinline__ void write_one(const StepLaunch& job, int64_t index, S value) {
  with_float_type(job.x.dtype, [&](auto type) {
    using T = decltype(type);
    as<T>(job.out)[index] = narrow<T>(value);
  });
}

// The bits of N values of any type, loaded before any of them is needed. 4-byte types go with
// N <= 4 and 8-byte types with N <= 2.
template <int N>
__device__ __forceinline__ uint4 read_bits(const StepOperand& operand, int64_t index) {
  uint4 bits = make_uint4(0, 0, 0, 0);
  if (!operand.data) return bits;
  const int64_t pack = index / N;
  const int bytes = N * (operand.dtype == Dtype::kFloat64   ? 8
                         : operand.dtype == Dtype::kFloat32 ? 4
                                                            : 2);
  if (bytes == 16) {
    bits = __ldg(as<uint4>(operand.data) + pack);
  } else if (bytes == 8) {
    const uint2 half = __ldg(as<uint2>(operand.data) + pack);
    bits.x = half.x, bits.y = half.y;
  } else {
    bits.x = __ldg(as<uint32_t>(operand.data) + pack);
  }
  return bits;
}

template <typename S, int N>
__device__ __forceinline__ void widen_bits(const StepOperand& operand, const uint4& bits,
                                           S* values) {
  with_float_type(operand.dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) * N <= sizeof(bits)) {
      T items[N];
      memcpy(items, &bits, sizeof(items));
      for (int i = 0; i < N; ++i) values[i] = S(widen(items[i]));
    }
  });
}

// All operands lie in memory in one order, without gaps inside an image and aligned to N values.
template <typename S, int N>
__global__ void __launch_bounds__(kStepThreads, 5) ddim_step_dense(StepLaunch job, int64_t count) {
  const int64_t first = (int64_t(blockIdx.x) * kStepThreads + threadIdx.x) * N;
  if (first >= count) return;
  for (int64_t batch = blockIdx.y; batch < job.sizes[0]; batch += gridDim.y) {
    const StepCoefficients<S> step(job, batch);
    const int64_t x_index = batch * job.x.strides[0] + first;
    const int64_t f_index = batch * job.f.strides[0] + first;
    const int64_t y_index = batch * job.y.strides[0] + first;
    const int64_t out_index = batch * job.out_strides[0] + first;
    if (first + N > count) {
#pragma unroll 1
      for (int i = 0; i < count - first; ++i) {
        write_one<S>(job, out_index + i,
                     step.apply(job, read_one<S>(job.x, x_index + i),
                                read_one<S>(job.f, f_index + i), read_one<S>(job.y, y_index + i)));
      }
      continue;
    }
    const uint4 x_bits = read_bits<N>(job.x, x_index), f_bits = read_bits<N>(job.f, f_index),
                y_bits = read_bits<N>(job.y, y_index);
    S x[N], f[N], y[N] = {};
    widen_bits<S, N>(job.x, x_bits, x);
    widen_bits<S, N>(job.f, f_bits, f);
    if (job.y.data) widen_bits<S, N>(job.y, y_bits, y);
    for (int i = 0; i < N; ++i) x[i] = step.apply(job, x[i], f[i], y[i]);
    with_float_type(job.x.dtype, [&](auto type) {
      using T = decltype(type);
      struct alignas(sizeof(T) * N <= 16 ? sizeof(T) * N : 16) Pack {
        T items[N];
      } pack;
      for (int i = 0; i < N; ++i) pack.items[i] = narrow<T>(x[i]);
      if constexpr (sizeof(Pack) <= 16) as<Pack>(job.out)[out_index / N] = pack;
    });
  }
}

// Any strides; dimensions ordered so that neighbours of `out` go to neighbouring threads.
struct StepOrder {
  int64_t sizes[4], x[4], f[4], y[4], out[4], coefficients[4];
};

template <typename S, typename Index>
__global__ void __launch_bounds__(kStepThreads)
    ddim_step_strided(StepLaunch job, StepOrder order, Index count) {
  const int64_t thread = int64_t(blockIdx.x) * kStepThreads + threadIdx.x;
  if (thread >= int64_t(count)) return;
  Index rest = Index(thread);
  int64_t x = 0, f = 0, y = 0, out = 0, batch = 0;
  for (int i = 3; i >= 0; --i) {
    const Index size = Index(order.sizes[i]), next = rest / size;
    const int64_t place = int64_t(rest - next * size);
    rest = next;
    x += place * order.x[i];
    f += place * order.f[i];
    y += place * order.y[i];
    out += place * order.out[i];
    batch += place * order.coefficients[i];
  }
  const StepCoefficients<S> step(job, batch);
  write_one<S>(
      job, out,
      step.apply(job, read_one<S>(job.x, x), read_one<S>(job.f, f), read_one<S>(job.y, y)));
}

// Dimensions from the largest to the smallest stride of `out`.
inline StepOrder order_of(const StepLaunch& job) {
  int dims[4] = {0, 1, 2, 3};
  std::stable_sort(dims, dims + 4,
                   [&](int a, int b) { return job.out_strides[a] > job.out_strides[b]; });
  StepOrder order{};
  for (int i = 0; i < 4; ++i) {
    const int dim = dims[i];
    order.sizes[i] = job.sizes[dim];
    order.x[i] = job.x.strides[dim];
    order.f[i] = job.f.strides[dim];
    order.y[i] = job.y.strides[dim];
    order.out[i] = job.out_strides[dim];
    order.coefficients[i] = dim == 0;
  }
  return order;
}

// Whether an image of each operand is one dense run, in the same order and aligned to `pack`
// values.
inline bool is_dense(const StepLaunch& job, int pack) {
  const StepOrder order = order_of(job);
  int64_t step = 1;
  for (int i = 3; i >= 0; --i) {
    if (order.coefficients[i] || order.sizes[i] == 1) continue;
    if (order.out[i] != step || order.x[i] != step || order.f[i] != step) return false;
    if (job.y.data && order.y[i] != step) return false;
    step *= order.sizes[i];
  }
  const auto aligned = [&](const void* data, Dtype dtype, int64_t batch_stride) {
    return !data || (reinterpret_cast<uintptr_t>(data) % (size_t(pack) * bytes_of(dtype)) == 0 &&
                     (job.sizes[0] == 1 || batch_stride % pack == 0));
  };
  return aligned(job.x.data, job.x.dtype, job.x.strides[0]) &&
         aligned(job.f.data, job.f.dtype, job.f.strides[0]) &&
         aligned(job.y.data, job.y.dtype, job.y.strides[0]) &&
         aligned(job.out, job.x.dtype, job.out_strides[0]);
}

inline cudaError_t run_ddim_step(const StepLaunch& job, cudaStream_t stream) {
  const int64_t image = job.sizes[1] * job.sizes[2] * job.sizes[3], count = image * job.sizes[0];
  if (count == 0) return cudaSuccess;
  int widest = 2;
  for (const StepOperand* operand : {&job.x, &job.f, &job.y}) {
    if (operand->data) widest = std::max(widest, bytes_of(operand->dtype));
  }
  const int pack = 16 / widest;
  if (is_dense(job, pack)) {
    const dim3 grid(unsigned((image + kStepThreads * pack - 1) / (kStepThreads * pack)),
                    unsigned(std::min<int64_t>(job.sizes[0], 65535)));
    auto* kernel = widest == 8   ? &ddim_step_dense<double, 2>
                   : widest == 4 ? &ddim_step_dense<float, 4>
                                 : &ddim_step_dense<float, 8>;
    return launch(kernel, grid, kStepThreads, 0, stream, job, image);
  }
  const unsigned grid = unsigned((count + kStepThreads - 1) / kStepThreads);
  const StepOrder order = order_of(job);
  if (count <= INT32_MAX) {
    auto* kernel =
        widest == 8 ? &ddim_step_strided<double, uint32_t> : &ddim_step_strided<float, uint32_t>;
    return launch(kernel, grid, kStepThreads, 0, stream, job, order, uint32_t(count));
  }
  auto* kernel =
      widest == 8 ? &ddim_step_strided<double, uint64_t> : &ddim_step_strided<float, uint64_t>;
  return launch(kernel, grid, kStepThreads, 0, stream, job, order, uint64_t(count));
}

}  // namespace freqdiff
