// fft_features on the device: spectra to log magnitude and phase. The meaning is in
// kernels/reference.py.

#pragma once

#include "window_spectrum.cuh"

namespace freqdiff {
namespace device {

// Of what is no denormal number: those need more steps.
__device__ __forceinline__ float inverse_root(float x) {
#ifdef __CUDACC__
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return rsqrtf(x);
#endif
}
__device__ __forceinline__ double inverse_root(double x) { return rsqrt(x); }
__device__ __forceinline__ float natural_log(float x) { return logf(x); }
__device__ __forceinline__ double natural_log(double x) { return log(x); }

// The base-2 logarithm of what is no denormal number, without the steps that those need.
__device__ __forceinline__ float normal_log2(float x) {
#ifdef __CUDACC__
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return __log2f(x);
#endif
}

// For results of type T, of what is no denormal number. The fast logarithm is off by 2^-22 of the
// result (or 2^-22 where that is below 1): a thousandth of what rounding to 16 bits does.
template <typename T, typename S>
__device__ __forceinline__ S natural_log_for(S x) {
  if constexpr (sizeof(T) == 2) {
    return S(0.69314718055994530942) * normal_log2(float(x));
  } else {
    return natural_log(x);
  }
}

template <typename T, int N>
struct Run {
  T items[N];
};

// One access as wide as the run, at most 16 bytes; the compiler may split that of a struct. Results
// of photos are too large for the caches.
template <typename T, int N>
__device__ __forceinline__ void store(T* target, const Run<T, N>& run) {
  if constexpr (sizeof(run) == 8) {
    __stcs(reinterpret_cast<uint2*>(target), same_bits<uint2>(run));
  } else if constexpr (sizeof(run) == 16) {
    __stcs(reinterpret_cast<uint4*>(target), same_bits<uint4>(run));
  } else {
    constexpr int kPart = 16 / sizeof(T);
#pragma unroll
    for (int i = 0; i < N; i += kPart) {
      Run<T, kPart> part;
      memcpy(&part, run.items + i, sizeof(part));
      store(target + i, part);
    }
  }
}

// N adjacent values of each of two rows, one of an even thread and one of the odd one beside it.
// In float the two exchange halves, so that together they write 32 bytes of one row at a time, a
// whole sector.
template <typename T, typename S, int N>
__device__ __forceinline__ void write_run(T* target, int even_row, int odd_row, bool odd,
                                          bool valid, const S* values) {
  if constexpr (sizeof(T) == 4 && N == 8) {
    Run<T, 4> even, uneven;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const T low = T(values[i]), high = T(values[4 + i]);
      const T other = __shfl_xor_sync(~0u, odd ? low : high, 1);
      even.items[i] = odd ? other : low;
      uneven.items[i] = odd ? high : other;
    }
    if (!valid) return;
    target += odd ? 4 : 0;
    store(target + even_row, even);
    store(target + odd_row, uneven);
  } else {
    Run<T, N> run;
#pragma unroll
    for (int i = 0; i < N; ++i) run.items[i] = narrow<T>(values[i]);
    if (valid) store(target + (odd ? odd_row : even_row), run);
  }
}

template <typename S>
struct FeatureTarget {
  void* features;
  Dtype dtype;
  S floor;  // squared noise floor of rho
};

template <int P, typename S>
__device__ __forceinline__ void write_row(const SpectrumThread<P, S>& part,
                                          const FeatureTarget<S>& to, const Complex<S>* slots,
                                          int even_row, int odd_row) {
  constexpr int kSlots = P * P / 2, kRun = P == 8 ? 4 : 8;
  const bool odd = part.thread % 2;
  static_for<0, P / 2 / kRun>([&](auto run) {
    S squares[kRun], cosines[kRun], sines[kRun];
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const Complex<S>& x = slots[run * kRun + i];
      const S square = fma(x.re, x.re, fma(x.im, x.im, to.floor));
      const S inverse = inverse_root(square);
      squares[i] = square;
      cosines[i] = x.re * inverse;
      sines[i] = x.im * inverse;
    }
    const int even = even_row * (P / 2) + run * kRun, uneven = odd_row * (P / 2) + run * kRun;
    const auto write = [&](auto type) {
      using T = decltype(type);
      T* target = as<T>(to.features) + part.offset(3 * kSlots);
      S logs[kRun];
#pragma unroll
      for (int i = 0; i < kRun; ++i) logs[i] = S(0.5) * natural_log_for<T>(squares[i]);
      write_run<T, S, kRun>(target, even, uneven, odd, part.valid, logs);
      write_run<T, S, kRun>(target + kSlots, even, uneven, odd, part.valid, cosines);
      write_run<T, S, kRun>(target + 2 * kSlots, even, uneven, odd, part.valid, sines);
    };
    if constexpr (std::is_same_v<S, double>) {
      write(double{});
    } else if (to.dtype == Dtype::kFloat32) {
      write(float{});
    } else if (to.dtype == Dtype::kBfloat16) {
      write(Bfloat16{});
    } else {
      write(Float16{});
    }
  });
}

template <int P, typename S>
__global__ void __launch_bounds__(kSpectrumThreads<P, S>)
    fft_features_kernel(SpectrumJob<S> job, FeatureTarget<S> to) {
  const SpectrumThread<P, S> part(job, dynamic_shared<Complex<S>>(), blockIdx.x);
  Complex<S> q[P], first[P / 2], second[P / 2];
  part.transform(q);
  part.slots(q, first, second);
  const int even = part.thread & ~1, odd = part.thread | 1;
  write_row<P, S>(part, to, first, even, odd);
  write_row<P, S>(part, to, second, even == 0 ? P / 2 : P - even, P - odd);
}

template <int P, typename S>
unsigned spectrum_blocks(const SpectrumJob<S>& job) {
  constexpr int kWindows = kBlockWindows<P, S>;
  return unsigned((job.tokens + kWindows - 1) / kWindows) * unsigned(job.planes);
}

template <int P, typename S>
cudaError_t launch_features(const SpectrumJob<S>& job, const FeatureTarget<S>& to,
                            cudaStream_t stream) {
  return launch(&fft_features_kernel<P, S>, spectrum_blocks<P>(job), kSpectrumThreads<P, S>,
                kSpectrumBytes<P, S>, stream, job, to);
}

template <typename S>
cudaError_t run_fft_features(int window, const SpectrumJob<S>& job, const FeatureTarget<S>& to,
                             cudaStream_t stream) {
  if (job.tokens == 0) return cudaSuccess;
  switch (window) {
    case 8:
      return launch_features<8>(job, to, stream);
    case 16:
      return launch_features<16>(job, to, stream);
    case 32:
      return launch_features<32>(job, to, stream);
    default:
      return launch_features<64>(job, to, stream);
  }
}

}  // namespace device
}  // namespace freqdiff
