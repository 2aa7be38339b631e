// The backward of fft_features on the device: gradients of all windows, then for every pixel the
// sum over the windows that hold it, always in the same order. The meaning is in
// kernels/gradients.py.

#pragma once

#include "fft_features.cuh"

namespace freqdiff {
namespace device {

template <typename S>
struct FeatureGradient {
  const void* grad;  // of the features, contiguous
  Dtype dtype;
  S floor;
  S* windows;  // (token, plane, P, P)
};

template <typename T, int N>
__device__ __forceinline__ Run<T, N> load_run(const T* source) {
  if constexpr (sizeof(Run<T, N>) == 8) {
    return same_bits<Run<T, N>>(__ldg(reinterpret_cast<const uint2*>(source)));
  } else if constexpr (sizeof(Run<T, N>) == 16) {
    return same_bits<Run<T, N>>(__ldg(reinterpret_cast<const uint4*>(source)));
  } else {
    Run<T, N> run;
#pragma unroll
    for (int i = 0; i < N; ++i) run.items[i] = source[i];
    return run;
  }
}

// Replaces the slots of one row by their gradients.
template <int P, typename S>
__device__ __forceinline__ void slot_gradients(const SpectrumThread<P, S>& part,
                                               const FeatureGradient<S>& from, int row,
                                               Complex<S>* slots) {
  constexpr int kSlots = P * P / 2, kRun = 4;
  static_for<0, P / 2 / kRun>([&](auto run) {
    S grads[3][kRun];
    const auto read = [&](auto type) {
      using T = decltype(type);
      const T* source = as<T>(from.grad) + part.offset(3 * kSlots) + row * (P / 2) + run * kRun;
#pragma unroll
      for (int kind = 0; kind < 3; ++kind) {
        const Run<T, kRun> values = load_run<T, kRun>(source + kind * kSlots);
#pragma unroll
        for (int i = 0; i < kRun; ++i) grads[kind][i] = widen(values.items[i]);
      }
    };
    if constexpr (std::is_same_v<S, double>) {
      read(double{});
    } else if (from.dtype == Dtype::kFloat32) {
      read(float{});
    } else if (from.dtype == Dtype::kBfloat16) {
      read(Bfloat16{});
    } else {
      read(Float16{});
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      Complex<S>& x = slots[run * kRun + i];
      const S inverse = inverse_root(fma(x.re, x.re, fma(x.im, x.im, from.floor)));
      const S cosine = x.re * inverse, sine = x.im * inverse;
      const S radial = grads[0][i] - grads[1][i] * cosine - grads[2][i] * sine;
      x = {fma(radial, cosine, grads[1][i]) * inverse, fma(radial, sine, grads[2][i]) * inverse};
    }
  });
}

template <int P, typename S>
__global__ void __launch_bounds__(kSpectrumThreads<P, S>)
    window_gradients_kernel(SpectrumJob<S> job, FeatureGradient<S> from) {
  const SpectrumThread<P, S> part(job, dynamic_shared<Complex<S>>(), blockIdx.x);
  Complex<S> q[P], first[P / 2], second[P / 2];
  part.transform(q);
  part.slots(q, first, second);
  slot_gradients<P, S>(part, from, part.first_row(), first);
  slot_gradients<P, S>(part, from, part.second_row(), second);
  part.slots_adjoint(first, second, q);
  part.transform_adjoint(q, from.windows + part.offset(P * P));
}

// Sum over the windows.

template <typename S>
struct GatherJob {
  const S* windows;  // (token, plane, window, window)
  void* image;       // gradient, contiguous (batch, 3, height, width)
  Dtype dtype;
  int32_t height, width, window, stride, token_rows, token_columns, planes;
  S luma[3];
};

constexpr int kGatherThreads = 256;

// The coordinates that reflect to `position`: itself (number 0), and those outside the image. -1
// where there is none; they count from the first pixel of the first window.
__device__ __forceinline__ int reflected_from(int number, int position, int size, int margin) {
  if (number == 0) return margin + position;
  if (number == 1) return position > 0 && position <= margin ? margin - position : -1;
  const int beyond = 2 * (size - 1) - position;
  return beyond >= size && beyond < size + margin ? margin + beyond : -1;
}

template <typename S>
__global__ void __launch_bounds__(kGatherThreads)
    gather_windows_kernel(GatherJob<S> job, int column_blocks) {
  const int x = int(blockIdx.x % column_blocks) * kGatherThreads + int(threadIdx.x);
  const int line = int(blockIdx.x / column_blocks), y = line % job.height;
  if (x >= job.width) return;
  const int plane = line / job.height % job.planes, batch = line / job.height / job.planes;
  const int margin = (job.window - job.stride) / 2;
  S sum = 0;
#pragma unroll 1
  for (int i = 0; i < 3; ++i) {
    const int row = reflected_from(i, y, job.height, margin);
    if (row < 0) continue;
    const int first_row = max(0, row - job.window + job.stride) / job.stride;
    const int last_row = min(row / job.stride, job.token_rows - 1);
#pragma unroll 1
    for (int j = 0; j < 3; ++j) {
      const int column = reflected_from(j, x, job.width, margin);
      if (column < 0) continue;
      const int first_column = max(0, column - job.window + job.stride) / job.stride;
      const int last_column = min(column / job.stride, job.token_columns - 1);
      for (int r = first_row; r <= last_row; ++r) {
        for (int c = first_column; c <= last_column; ++c) {
          const int64_t token = (int64_t(batch) * job.token_rows + r) * job.token_columns + c;
          const int inside = (row - r * job.stride) * job.window + column - c * job.stride;
          sum += job.windows[(token * job.planes + plane) * job.window * job.window + inside];
        }
      }
    }
  }
  const int64_t pixels = int64_t(job.height) * job.width;
  const int64_t target = int64_t(batch) * 3 * pixels + int64_t(y) * job.width + x;
  with_float_type(job.dtype, [&](auto type) {
    using T = decltype(type);
    if (job.planes == 3) {
      as<T>(job.image)[target + plane * pixels] = narrow<T>(sum);
    } else {
      for (int colour = 0; colour < 3; ++colour) {
        as<T>(job.image)[target + colour * pixels] = narrow<T>(sum * job.luma[colour]);
      }
    }
  });
}

template <int P, typename S>
cudaError_t launch_window_gradients(const SpectrumJob<S>& job, const FeatureGradient<S>& from,
                                    cudaStream_t stream) {
  return launch(&window_gradients_kernel<P, S>, spectrum_blocks<P>(job), kSpectrumThreads<P, S>,
                kSpectrumBytes<P, S>, stream, job, from);
}

template <typename S>
cudaError_t run_window_gradients(int window, const SpectrumJob<S>& job,
                                 const FeatureGradient<S>& from, cudaStream_t stream) {
  switch (window) {
    case 8:
      return launch_window_gradients<8>(job, from, stream);
    case 16:
      return launch_window_gradients<16>(job, from, stream);
    case 32:
      return launch_window_gradients<32>(job, from, stream);
    default:
      return launch_window_gradients<64>(job, from, stream);
  }
}

// Sums the gradients of all windows into that of the image, in the dtype of the image.
template <typename S>
cudaError_t run_gather_windows(int window, const SpectrumJob<S>& job, const S* windows, void* image,
                               cudaStream_t stream) {
  const GatherJob<S> gather{windows,
                            image,
                            job.dtype,
                            job.height,
                            job.width,
                            window,
                            job.stride,
                            job.token_rows,
                            job.token_columns,
                            job.planes,
                            {S(0.299), S(0.587), S(0.114)}};
  const int batch = job.tokens / (job.token_rows * job.token_columns);
  const int column_blocks = (job.width + kGatherThreads - 1) / kGatherThreads;
  const unsigned lines = unsigned(batch) * unsigned(job.planes) * unsigned(job.height);
  return launch(&gather_windows_kernel<S>, lines * unsigned(column_blocks), kGatherThreads, 0,
                stream, gather, column_blocks);
}

template <typename S>
cudaError_t run_fft_features_backward(int window, const SpectrumJob<S>& job,
                                      const FeatureGradient<S>& from, void* image,
                                      cudaStream_t stream) {
  if (job.tokens == 0) return cudaSuccess;
  const cudaError_t error = run_window_gradients<S>(window, job, from, stream);
  if (error != cudaSuccess) return error;
  return run_gather_windows<S>(window, job, from.windows, image, stream);
}

}  // namespace device
}  // namespace freqdiff
