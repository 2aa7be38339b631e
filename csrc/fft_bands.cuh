// fft_bands on the device: spectra to log power in frequency bands. The meaning is in
// kernels/reference.py.

#pragma once

#include <vector>

#include "fft_bands_table.cuh"
#include "fft_features.cuh"

namespace freqdiff {
namespace device {

template <typename S>
struct BandTarget {
  void* bands;
  Dtype dtype;
  bool vectors;  // four adjacent bands can be stored at once
  // kByteOffsetBits: of a constant the compiler makes one register per byte, of this one for all.
  uint32_t offset_bits;
  S floor;
};

// Added to bytes by widen_byte, which inserts them in the digits of this number: the conversion of
// bytes would be one instruction as well, but one of a quarter of the throughput.
constexpr float kByteOffset = 32768.0f;
constexpr uint32_t kByteOffsetBits = 0x47000000u;

__device__ __forceinline__ float widen_byte(uint32_t word, int number, uint32_t offset_bits) {
  return __uint_as_float(__byte_perm(word, offset_bits, 0x7604u + (unsigned(number) << 4)));
}

template <typename T, int N>
__device__ __forceinline__ void load_words(const void* source, T (&words)[N]) {
  if constexpr (sizeof(words) == 4) {
    words[0] = *static_cast<const T*>(source);
  } else if constexpr (sizeof(words) == 8) {
    const uint2 part = *static_cast<const uint2*>(source);
    memcpy(words, &part, 8);
  } else {
#pragma unroll
    for (int i = 0; i < int(sizeof(words)) / 16; ++i) {
      const uint4 part = static_cast<const uint4*>(source)[i];
      memcpy(reinterpret_cast<unsigned char*>(words) + 16 * i, &part, 16);
    }
  }
}

// Two rows of bytes of the window, whole, in place of two columns: fewer and wider loads. Bytes of
// a single colour keep their unit. Returns what all numbers are too large by.
template <int P>
__device__ __forceinline__ float load_rows(const SpectrumThread<P, float>& part,
                                           uint32_t offset_bits, Complex<float>* z) {
  const SpectrumJob<float>& job = part.job;
  const int stride_row = int(job.stride_row), stride_colour = int(job.stride_colour);
  const uint8_t* source =
      as<uint8_t>(job.image) + (part.batch * int(job.stride_batch) + part.plane * stride_colour +
                                (part.top + 2 * part.thread) * stride_row + part.left);
  const auto load = [&](const uint8_t* from, auto&& body) {
    uint32_t upper[P / 4], lower[P / 4];
    load_words(from, upper);
    load_words(from + stride_row, lower);
    static_for<0, P>([&](auto x) {
      body(z[x], widen_byte(upper[x / 4], x % 4, offset_bits),
           widen_byte(lower[x / 4], x % 4, offset_bits));
    });
  };
  if (job.colours == 1) {
    load(source, [](Complex<float>& sum, float above, float below) { sum = {above, below}; });
    if (job.flat) return kByteOffset;
    static_for<0, P>([&](auto x) { z[x] = {z[x].re - kByteOffset, z[x].im - kByteOffset}; });
  } else {
#pragma unroll
    for (int x = 0; x < P; ++x) z[x] = {0.0f, 0.0f};
#pragma unroll 1
    for (int colour = 0; colour < job.colours; ++colour) {
      const float weight = job.colour_weights[colour];
      load(source + colour * stride_colour, [&](Complex<float>& sum, float above, float below) {
        sum = {fma(weight, above - kByteOffset, sum.re), fma(weight, below - kByteOffset, sum.im)};
      });
    }
  }
  if (!job.flat) {
    const float above = job.taper[2 * part.thread], below = job.taper[2 * part.thread + 1];
    static_for<0, P>([&](auto x) {
      z[x] = {z[x].re * (above * job.taper[x]), z[x].im * (below * job.taper[x])};
    });
  }
  return 0.0f;
}

// The powers of the entries of row `thread` of the full spectrum: entry k of it has the number
// k P / 2 + thread. The entry that mirrors it is not written, and those whose mirror image may be
// in another band are halved. In place of row 0, thread 0 writes halves of the rows 0 and P / 2:
// the entries (0, k) for k < P / 2 and (P / 2, k) for the others, but (P / 2, 0) as number 0,
// (0, P / 2) as that of k = P / 2, and (P / 2, P / 2) after all others.
template <int P, typename S>
__device__ __forceinline__ void write_powers(const SpectrumThread<P, S>& part, const Complex<S>* q,
                                             S* powers) {
  constexpr int kHalf = P / 2, kWindows = BandRegion<P, S>::kWindows;
  const bool real = part.thread == 0;
  // What its rows have in each other, only thread 0 takes out; see SpectrumThread::slots.
  const S mixed = real ? S(1) : S(0), second_share = real ? S(0.5) : S(1),
          real_share = real ? S(2) : S(0.5);
  powers += int(threadIdx.x % 32 / kHalf) + part.thread * kWindows;
  const auto write = [&](auto k, S power) { powers[k * (kHalf * kWindows)] = power; };
  const auto sum_of_squares = [](S x, S y) { return fma(x, x, y * y); };
  const Complex<S>&zero = q[0], &half = q[kHalf];
  write(std::integral_constant<int, 0>{},
        real_share * sum_of_squares(zero.im, real ? S(0) : zero.re));
  write(std::integral_constant<int, kHalf>{},
        real_share * sum_of_squares(half.re, real ? S(0) : half.im));
  if (real) write(std::integral_constant<int, P>{}, real_share * half.im * half.im);
  static_for<1, kHalf>([&](auto v) {
    const Complex<S>&a = q[v], &b = q[P - v];
    write(v, sum_of_squares(fma(mixed, b.re, a.re), fma(-mixed, b.im, a.im)));
    const S second = sum_of_squares(fma(-mixed, a.re, b.re), fma(mixed, a.im, b.im));
    write(std::integral_constant<int, P - v>{}, second_share * second);
  });
}

template <typename S>
__device__ __forceinline__ S level_of(S power, Dtype dtype) {
  if constexpr (sizeof(S) == 4) {
    if (dtype != Dtype::kFloat32) return natural_log_for<Bfloat16>(power);
  }
  return natural_log(power);
}

// The levels of up to kBlockBands bands from `begin` on, of all windows of the block.
template <int P, typename S>
__device__ __forceinline__ void write_levels(const SpectrumJob<S>& job, const BandTarget<S>& to,
                                             const BandTable<P, S>& table,
                                             const unsigned char* shared, int begin) {
  using Region = BandRegion<P, S>;
  constexpr int kThreads = kSpectrumThreads<P, S>, kRuns = kBlockBands / 4,
                kWindows = kBlockWindows<P, S>;
  const int first = int(blockIdx.x) * kWindows, plane = int(blockIdx.y);
#pragma unroll
  for (int i = 0; i < kWindows * kRuns; i += kThreads) {
    const unsigned run = unsigned(i) + threadIdx.x;
    const int window = int(run / kRuns), quarter = int(run % kRuns) * 4, band = begin + quarter;
    if (window >= kWindows || first + window >= job.tokens || band >= table.count) continue;
    const unsigned char* region = shared + int(run / (kRuns * Region::kWindows)) * Region::kBytes;
    const S* source = reinterpret_cast<const S*>(region + Region::kLevels) +
                      int(run / kRuns % Region::kWindows) * kLevelPitch + quarter;
    S levels[4];
    load_words(source, levels);
    const int64_t offset =
        int64_t((first + window) * job.planes + plane) * table.total + (table.first + band);
    with_float_type(to.dtype, [&](auto type) {
      using T = decltype(type);
      T* target = as<T>(to.bands) + offset;
      Run<T, 4> values;
#pragma unroll
      for (int j = 0; j < 4; ++j) values.items[j] = narrow<T>(levels[j]);
      if (to.vectors) {
        store(target, values);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (band + j < table.count) target[j] = values.items[j];
        }
      }
    });
  }
}

// Warps transform windows and leave powers; then all threads add those up, each for one band and
// all windows of one warp.
template <int P, typename S, bool kRows>
__global__ void __launch_bounds__(kSpectrumThreads<P, S>, kBandBlocks<P, S>)
    fft_bands_kernel(SpectrumJob<S> job, BandTarget<S> to, BandTable<P, S> table) {
  using Region = BandRegion<P, S>;
  constexpr int kThreads = kSpectrumThreads<P, S>, kWarps = kThreads / 32;
  unsigned char* shared = dynamic_shared<unsigned char>();
  // Lanes look at different places of it, which shared memory serves better than parameters.
  uint4* list = reinterpret_cast<uint4*>(shared + kWarps * Region::kBytes);
  constexpr int kListed = BandTable<P, S>::kListBytes / 16;
#pragma unroll
  for (int i = 0; i < kListed; i += kThreads) {
    const int place = i + int(threadIdx.x);
    if (place < kListed) list[place] = table.list[place];
  }
  {
    // SpectrumThread adds the windows before this one.
    Complex<S>* areas = reinterpret_cast<Complex<S>*>(shared + int(threadIdx.x / 32) * 16);
    const SpectrumThread<P, S> part(job, areas, int(blockIdx.x), int(blockIdx.y));
    Complex<S> q[P];
    if constexpr (kRows) {
      Complex<S> z[P];
      const S excess = load_rows(part, to.offset_bits, z);
      part.transform_columns(z, excess, q);
    } else {
      part.transform(q);
    }
    __syncwarp();
    write_powers(part, q, reinterpret_cast<S*>(shared + int(threadIdx.x / 32) * Region::kBytes));
  }
  __syncthreads();
  const int warp = int(threadIdx.x % kWarps), group = int(threadIdx.x / kWarps);
  const uint16_t* places = reinterpret_cast<const uint16_t*>(list);
  unsigned char* region = shared + warp * Region::kBytes;
  S* levels = reinterpret_cast<S*>(region + Region::kLevels) + group;
#pragma unroll 1
  for (int begin = 0; begin < table.count; begin += kBlockBands) {
    if (begin > 0) __syncthreads();
    const int number = begin + group;
    if (number < table.count) {
      const Band<S> band = table.bands[number];
      S sums[Region::kWindows] = {};
#pragma unroll 4
      for (int i = band.begin; i < band.end; ++i) {
        S powers[Region::kWindows];
        load_words(region + places[i], powers);
#pragma unroll
        for (int w = 0; w < Region::kWindows; ++w) sums[w] += powers[w];
      }
#pragma unroll
      for (int w = 0; w < Region::kWindows; ++w) {
        levels[w * kLevelPitch] = level_of(fma(sums[w], band.factor, to.floor), to.dtype);
      }
    }
    __syncthreads();
    write_levels<P, S>(job, to, table, shared, begin);
  }
}

template <int P, typename S, bool kRows>
cudaError_t launch_bands(const SpectrumJob<S>& job, const BandTarget<S>& to,
                         const std::vector<int>& bands, double gain, int total,
                         cudaStream_t stream) {
  constexpr int kThreads = kSpectrumThreads<P, S>, kWindows = kBlockWindows<P, S>;
  const dim3 blocks(unsigned((job.tokens + kWindows - 1) / kWindows), unsigned(job.planes));
  // load_rows leaves out the weight of a single colour.
  const double weight = kRows && job.colours == 1 ? double(job.colour_weights[0]) : 1.0;
  for (int first = 0; first < total; first += kLaunchBands) {
    const BandTable<P, S> table =
        band_table<P, S>(bands, kRows, weight * weight / gain, first, total);
    const size_t bytes = kThreads / 32 * BandRegion<P, S>::kBytes + BandTable<P, S>::kListBytes;
    const cudaError_t error =
        launch(&fft_bands_kernel<P, S, kRows>, blocks, kThreads, bytes, stream, job, to, table);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// Whether all windows lie inside the image, and their rows where load_rows can load them and 32
// bits can count.
template <int P, typename S>
bool aligned_rows(const SpectrumJob<S>& job) {
  constexpr int kBytes = P < 16 ? P : 16;
  const int64_t images = job.tokens / (int64_t(job.token_rows) * job.token_columns);
  int64_t end = job.width;
  const auto step = [&](int64_t stride, int64_t size) {
    if (stride < 0 || stride % kBytes != 0 || stride > INT32_MAX) return false;
    end += stride * (size - 1);
    return end <= INT32_MAX;
  };
  return job.dtype == Dtype::kUint8 && job.stride == P && job.stride_column == 1 &&
         reinterpret_cast<uintptr_t>(job.image) % kBytes == 0 && step(job.stride_row, job.height) &&
         step(job.stride_colour, 3) && step(job.stride_batch, images);
}

template <int P, typename S>
cudaError_t launch_bands(const SpectrumJob<S>& job, const BandTarget<S>& to,
                         const std::vector<int>& bands, double gain, int total,
                         cudaStream_t stream) {
  if constexpr (std::is_same_v<S, float>) {
    if (aligned_rows<P>(job)) {
      return launch_bands<P, S, true>(job, to, bands, gain, total, stream);
    }
  }
  return launch_bands<P, S, false>(job, to, bands, gain, total, stream);
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
  const int total = radial * angular;
  const bool vectors = total % 4 == 0 && reinterpret_cast<uintptr_t>(target) % 16 == 0;
  const BandTarget<S> to{target, dtype, vectors, kByteOffsetBits, S(kBandFloor)};
  const std::vector<int> bands = bands_of_entries(window, radial, angular);
  const double gain = spectrum_gain(window, job);
  switch (window) {
    case 8:
      return launch_bands<8>(job, to, bands, gain, total, stream);
    case 16:
      return launch_bands<16>(job, to, bands, gain, total, stream);
    case 32:
      return launch_bands<32>(job, to, bands, gain, total, stream);
    default:
      return launch_bands<64>(job, to, bands, gain, total, stream);
  }
}

}  // namespace device
}  // namespace freqdiff
