// fft_bands on the device: spectra to log power in frequency bands. The meaning is in
// kernels/reference.py.

#pragma once

#include <vector>

#include "fft_features.cuh"

namespace freqdiff {
namespace device {

// More bands take several launches.
constexpr int kLaunchBands = 256;

// Which entries u (P / 2 + 1) + v of the half spectrum each band adds up.
template <int P>
struct BandTable {
  int32_t first, count, total;        // bands of this launch among all
  uint16_t entries[P * (P / 2 + 1)];  // band after band
  uint16_t begin[kLaunchBands + 1];   // where each begins
  uint16_t members[kLaunchBands];     // entries of the full spectrum, mirrored ones counted
};

template <typename S>
struct BandTarget {
  void* bands;
  Dtype dtype;
  S floor, gain;
};

// The band of every entry; -1 for DC. Follows the operations of kernels/reference.py in double, so
// that entries on the border of two bands fall on the same side.
inline std::vector<int> bands_of_entries(int window, int radial, int angular) {
  constexpr double kPi = 3.14159265358979323846;
  std::vector<int> bands;
  for (int u = 0; u < window; ++u) {
    for (int v = 0; v <= window / 2; ++v) {
      const double fu = double(u < window / 2 ? u : u - window) / window, fv = double(v) / window;
      const int ring = std::min(radial - 1, int(std::floor(radial * std::hypot(fu, fv) / 0.5)));
      double angle = std::atan2(fu, fv);
      angle = angle < 0 ? angle + kPi : angle;
      angle = angle >= kPi ? 0 : angle;
      const int sector = std::min(angular - 1, int(std::floor(angular * angle / kPi)));
      bands.push_back(u == 0 && v == 0 ? -1 : ring * angular + sector);
    }
  }
  return bands;
}

template <int P>
BandTable<P> band_table(const std::vector<int>& bands, int first, int total) {
  BandTable<P> table{};
  table.first = first;
  table.count = std::min(kLaunchBands, total - first);
  table.total = total;
  int next = 0;
  for (int band = 0; band < table.count; ++band) {
    table.begin[band] = uint16_t(next);
    for (size_t entry = 0; entry < bands.size(); ++entry) {
      if (bands[entry] != first + band) continue;
      const int v = int(entry) % (P / 2 + 1);
      table.entries[next++] = uint16_t(entry);
      table.members[band] = uint16_t(table.members[band] + (v == 0 || v == P / 2 ? 1 : 2));
    }
  }
  table.begin[table.count] = uint16_t(next);
  return table;
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
    fft_bands_kernel(SpectrumJob<S> job, BandTarget<S> to, BandTable<P> table) {
  constexpr int kHalf = P / 2;
  Complex<S>* shared = dynamic_shared<Complex<S>>();
  // Lanes look at different entries at once, which shared memory serves better than parameters.
  uint16_t* entries =
      reinterpret_cast<uint16_t*>(reinterpret_cast<unsigned char*>(shared) + kSpectrumBytes<P, S>);
  for (int i = int(threadIdx.x); i < table.begin[table.count]; i += kSpectrumThreads<P, S>) {
    entries[i] = table.entries[i];
  }
  __syncthreads();
  const SpectrumThread<P, S> part(job, shared, int(blockIdx.x));
  S* powers = reinterpret_cast<S*>(part.shared);
  {
    Complex<S> q[P], first[kHalf], second[kHalf];
    part.transform(q);
    part.slots(q, first, second);
    __syncwarp();
    write_powers<P, S>(part, first, second, powers);
    __syncwarp();
  }
  const int64_t offset = part.offset(table.total) + table.first;
#pragma unroll 1
  for (int band = part.thread; band < table.count; band += kHalf) {
    S sum = 0;
    for (int i = table.begin[band]; i < table.begin[band + 1]; ++i) sum += powers[entries[i]];
    const S value = natural_log(sum / (S(max(int(table.members[band]), 1)) * to.gain) + to.floor);
    if (!part.valid) continue;
    with_float_type(to.dtype, [&](auto type) {
      using T = decltype(type);
      as<T>(to.bands)[offset + band] = narrow<T>(value);
    });
  }
}

template <int P, typename S>
cudaError_t launch_bands(const SpectrumJob<S>& job, const BandTarget<S>& to,
                         const std::vector<int>& bands, int total, cudaStream_t stream) {
  for (int first = 0; first < total; first += kLaunchBands) {
    const BandTable<P> table = band_table<P>(bands, first, total);
    const cudaError_t error =
        launch(&fft_bands_kernel<P, S>, spectrum_blocks<P>(job), kSpectrumThreads<P, S>,
               kSpectrumBytes<P, S> + sizeof(table.entries), stream, job, to, table);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// What white noise of variance 1 gives to an entry of a tapered spectrum.
template <typename S>
S spectrum_gain(int window, const SpectrumJob<S>& job) {
  double mean = 0;
  for (int i = 0; i < window; ++i) mean += double(job.taper[i]) * double(job.taper[i]) / window;
  return S(double(window) * window * mean * mean);
}

constexpr double kBandFloor = 1.0 / (255.0 * 255.0 * 12.0);

template <typename S>
cudaError_t run_fft_bands(int window, const SpectrumJob<S>& job, void* target, Dtype dtype,
                          int radial, int angular, cudaStream_t stream) {
  if (job.tokens == 0) return cudaSuccess;
  const BandTarget<S> to{target, dtype, S(kBandFloor), spectrum_gain(window, job)};
  const std::vector<int> bands = bands_of_entries(window, radial, angular);
  switch (window) {
    case 8:
      return launch_bands<8>(job, to, bands, radial * angular, stream);
    case 16:
      return launch_bands<16>(job, to, bands, radial * angular, stream);
    case 32:
      return launch_bands<32>(job, to, bands, radial * angular, stream);
    default:
      return launch_bands<64>(job, to, bands, radial * angular, stream);
  }
}

}  // namespace device
}  // namespace freqdiff
