// The backward of fft_bands on the device: gradients of all windows, summed as those of
// fft_features. The meaning is in kernels/gradients.py.

#pragma once

#include "fft_bands.cuh"
#include "fft_features_backward.cuh"

namespace freqdiff {
namespace device {

template <typename S>
struct BandGradient {
  const void* grad;  // of the bands, contiguous
  Dtype dtype;
  S floor, gain;
  S* windows;  // (token, plane, P, P)
};

// The bands that hold something: no more than there are entries.
template <int P>
struct FilledBands {
  static constexpr int kEntries = P * (P / 2 + 1);
  int32_t count, total;
  int32_t bands[kEntries];
  uint16_t entries[kEntries], begin[kEntries + 1], members[kEntries];
};

template <int P>
FilledBands<P> filled_bands(const std::vector<int>& bands, int total) {
  FilledBands<P> filled{};
  filled.total = total;
  int next = 0;
  std::vector<bool> done(size_t(total), false);
  for (int band : bands) {
    if (band < 0 || done[size_t(band)]) continue;
    done[size_t(band)] = true;
    const int place = filled.count++;
    filled.bands[place] = band;
    filled.begin[place] = uint16_t(next);
    for (size_t entry = 0; entry < bands.size(); ++entry) {
      if (bands[entry] != band) continue;
      const int v = int(entry) % (P / 2 + 1);
      filled.entries[next++] = uint16_t(entry);
      filled.members[place] = uint16_t(filled.members[place] + (v == 0 || v == P / 2 ? 1 : 2));
    }
  }
  filled.begin[filled.count] = uint16_t(next);
  return filled;
}

// Powers of the entries of the thread's two rows, mirrored ones counted.
template <int P, typename S>
__device__ __forceinline__ void write_powers(const SpectrumThread<P, S>& part,
                                             const Complex<S>* first, const Complex<S>* second,
                                             S* powers) {
  constexpr int kHalf = P / 2, kRow = kHalf + 1;
  S* first_row = powers + part.first_row() * kRow;
  S* second_row = powers + part.second_row() * kRow;
  const auto power = [](const Complex<S>& x) { return fma(x.re, x.re, x.im * x.im); };
  const Complex<S>&a = first[0], &b = second[0];
  // The slots v = 0 hold real pairs in thread 0, else X(u, 0) and X(P - u, P / 2).
  const bool real = part.thread == 0;
  first_row[0] = real ? a.re * a.re : power(a);
  second_row[0] = real ? b.re * b.re : power(a);
  first_row[kHalf] = real ? a.im * a.im : power(b);
  second_row[kHalf] = real ? b.im * b.im : power(b);
  static_for<1, kHalf>([&](auto v) {
    first_row[v] = S(2) * power(first[v]);
    second_row[v] = S(2) * power(second[v]);
  });
}

template <int P, typename S>
__global__ void __launch_bounds__(kSpectrumThreads<P, S>)
    band_gradients_kernel(SpectrumJob<S> job, BandGradient<S> from, FilledBands<P> filled) {
  constexpr int kHalf = P / 2, kRow = kHalf + 1;
  Complex<S>* shared = dynamic_shared<Complex<S>>();
  uint16_t* entries =
      reinterpret_cast<uint16_t*>(reinterpret_cast<unsigned char*>(shared) + kSpectrumBytes<P, S>);
  for (int i = int(threadIdx.x); i < filled.begin[filled.count]; i += kSpectrumThreads<P, S>) {
    entries[i] = filled.entries[i];
  }
  __syncthreads();
  const SpectrumThread<P, S> part(job, shared, blockIdx.x);
  S* powers = reinterpret_cast<S*>(part.shared);
  Complex<S> q[P], first[kHalf], second[kHalf];
  part.transform(q);
  part.slots(q, first, second);
  __syncwarp();
  write_powers<P, S>(part, first, second, powers);
  // DC is in no band.
  if (part.thread == 0) powers[0] = S(0);
  __syncwarp();

  // The power of every entry makes room for what its square is multiplied with in the gradient.
  const int64_t offset = part.offset(filled.total);
#pragma unroll 1
  for (int band = part.thread; band < filled.count; band += kHalf) {
    const int begin = filled.begin[band], end = filled.begin[band + 1];
    const S norm = S(int(filled.members[band])) * from.gain;
    S sum = 0, grad = 0;
    for (int i = begin; i < end; ++i) sum += powers[entries[i]];
    with_float_type(from.dtype, [&](auto type) {
      using T = decltype(type);
      grad = S(widen(as<T>(from.grad)[offset + filled.bands[band]]));
    });
    const S factor = S(2) * grad / ((sum / norm + from.floor) * norm);
    for (int i = begin; i < end; ++i) powers[entries[i]] = factor;
  }
  __syncwarp();
  const S* first_row = powers + part.first_row() * kRow;
  const S* second_row = powers + part.second_row() * kRow;
  // See write_powers for the slots v = 0. Those of the other threads are two entries each.
  const bool real = part.thread == 0;
  Complex<S>&a = first[0], &b = second[0];
  a.re *= real ? first_row[0] : first_row[0] + second_row[0];
  a.im *= real ? first_row[kHalf] : first_row[0] + second_row[0];
  b.re *= real ? second_row[0] : first_row[kHalf] + second_row[kHalf];
  b.im *= real ? second_row[kHalf] : first_row[kHalf] + second_row[kHalf];
  static_for<1, kHalf>([&](auto v) {
    const S one = S(2) * first_row[v], other = S(2) * second_row[v];
    first[v] = {first[v].re * one, first[v].im * one};
    second[v] = {second[v].re * other, second[v].im * other};
  });
  part.slots_adjoint(first, second, q);
  part.transform_adjoint(q, from.windows + part.offset(P * P));
}

template <int P, typename S>
cudaError_t launch_band_gradients(const SpectrumJob<S>& job, const BandGradient<S>& from,
                                  const std::vector<int>& bands, int total, cudaStream_t stream) {
  const FilledBands<P> filled = filled_bands<P>(bands, total);
  return launch(&band_gradients_kernel<P, S>, spectrum_blocks<P>(job), kSpectrumThreads<P, S>,
                kSpectrumBytes<P, S> + sizeof(filled.entries), stream, job, from, filled);
}

template <typename S>
cudaError_t run_band_gradients(int window, const SpectrumJob<S>& job, const BandGradient<S>& from,
                               const std::vector<int>& bands, int total, cudaStream_t stream) {
  switch (window) {
    case 8:
      return launch_band_gradients<8>(job, from, bands, total, stream);
    case 16:
      return launch_band_gradients<16>(job, from, bands, total, stream);
    case 32:
      return launch_band_gradients<32>(job, from, bands, total, stream);
    default:
      return launch_band_gradients<64>(job, from, bands, total, stream);
  }
}

// `image` is the gradient of the image in its own dtype.
template <typename S>
cudaError_t run_fft_bands_backward(int window, const SpectrumJob<S>& job, const void* grad,
                                   Dtype dtype, S* windows, int radial, int angular, void* image,
                                   cudaStream_t stream) {
  if (job.tokens == 0) return cudaSuccess;
  const BandGradient<S> from{grad, dtype, S(kBandFloor), spectrum_gain(window, job), windows};
  const std::vector<int> bands = bands_of_entries(window, radial, angular);
  const cudaError_t error =
      run_band_gradients<S>(window, job, from, bands, radial * angular, stream);
  if (error != cudaSuccess) return error;
  return run_gather_windows<S>(window, job, windows, image, stream);
}

}  // namespace device
}  // namespace freqdiff
