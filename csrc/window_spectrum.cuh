// Windows of an image to packed half spectra on the device, and the adjoint. P / 2 threads of one
// warp share a window: each transforms two adjacent columns, packed as one complex signal, passes
// them on through shared memory, and transforms the row u = its number (thread 0: the rows 0 and
// P / 2, which are real before that transform). It ends with the slots of two rows, u and P - u.
// Nothing but its own pixels enters a window, so results do not depend on neighbours.

#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "stored.cuh"

namespace freqdiff {
namespace device {

template <typename S>
using Vec = S;
#define FREQDIFF_INLINE __device__ __forceinline__
#include "fft.h"
#undef FREQDIFF_INLINE

// Division of numbers below 2^31 by a number that is known before the launch.
struct Divisor {
  uint32_t multiplier;
  int32_t shift;

  Divisor() = default;
  explicit Divisor(int32_t divisor) : shift(31) {
    while (int64_t(1) << (shift - 31) < divisor) ++shift;
    multiplier = uint32_t(((uint64_t(1) << shift) + uint64_t(divisor) - 1) / uint64_t(divisor));
  }
  __device__ __forceinline__ int quotient(int number) const {
    return int(uint64_t(uint32_t(number)) * multiplier >> shift);
  }
};

template <typename S>
struct SpectrumJob {
  const void* image;  // (batch, 3, height, width), strides in elements
  Dtype dtype;
  int64_t stride_batch, stride_colour, stride_row, stride_column;
  int32_t height, width, stride;
  int32_t token_rows, token_columns, tokens;
  Divisor by_rows, by_columns;  // of tokens
  int32_t planes, colours;      // planes of the result (1 or 3), colours that make one of them
  bool pairs;                   // two adjacent pixels can be loaded at once
  bool flat;                    // the taper is 1
  S colour_weights[3];          // half of each colour in its plane, with the unit of the pixels
  S taper[64];                  // one axis
};

struct SpectrumImage {
  const void* data;
  Dtype dtype;
  int64_t strides[4], sizes[4];
};

// The squared noise floor of rho.
inline double noise_power(int window) { return double(window) * window / (255.0 * 255.0 * 12.0); }

template <typename S>
SpectrumJob<S> make_spectrum_job(const SpectrumImage& image, int window, int stride, bool hann,
                                 bool rgb) {
  SpectrumJob<S> job{};
  job.image = image.data;
  job.dtype = image.dtype;
  job.stride_batch = image.strides[0];
  job.stride_colour = image.strides[1];
  job.stride_row = image.strides[2];
  job.stride_column = image.strides[3];
  job.height = int32_t(image.sizes[2]);
  job.width = int32_t(image.sizes[3]);
  job.stride = stride;
  job.token_rows = job.height / stride;
  job.token_columns = job.width / stride;
  job.tokens = int32_t(image.sizes[0] * job.token_rows * job.token_columns);
  job.by_rows = Divisor(std::max(job.token_rows, 1));
  job.by_columns = Divisor(std::max(job.token_columns, 1));
  job.planes = rgb ? 3 : 1;
  job.colours = rgb ? 1 : 3;
  const uintptr_t pair = 2 * uintptr_t(bytes_of(image.dtype));
  job.pairs = reinterpret_cast<uintptr_t>(image.data) % pair == 0 && image.strides[3] == 1;
  for (int i = 0; i < 3; ++i) job.pairs = job.pairs && image.strides[i] % 2 == 0;
  const double unit = image.dtype == Dtype::kUint8 ? 1.0 / 255.0 : 1.0,
               luma[] = {0.299, 0.587, 0.114};
  for (int i = 0; i < 3; ++i) job.colour_weights[i] = S(0.5 * unit * (rgb ? 1 : luma[i]));
  job.flat = !hann;
  for (int n = 0; n < window; ++n) {
    job.taper[n] =
        hann ? S(0.5 - 0.5 * std::cos(2 * 3.14159265358979323846 * (n + 0.5) / window)) : S(1);
  }
  return job;
}

// Longer than a row by two entries: 16-byte accesses to columns then meet no bank twice.
template <int P>
constexpr int kSpectrumPitch = P + 2;

// At most 48 KiB of shared memory in a block; 128 threads where that is enough.
template <int P, typename S>
constexpr int kSpectrumThreads = P <= 16 || (P == 32 && sizeof(S) == 4) ? 128
                                 : P == 32 || sizeof(S) == 4            ? 64
                                                                        : 32;

template <int P, typename S>
constexpr int kBlockWindows = kSpectrumThreads<P, S> / (P / 2);

template <int P, typename S>
constexpr size_t kSpectrumBytes =
    size_t(kBlockWindows<P, S>) * (P / 2) * kSpectrumPitch<P> * 2 * sizeof(S);

template <typename S>
struct alignas(16) TwoNumbers {
  Complex<S> a, b;
};

template <typename T>
struct alignas(2 * sizeof(T)) TwoPixels {
  T a, b;
};

// The part of a thread in one window of one plane.
template <int P, typename S>
struct SpectrumThread {
  static constexpr int kHalf = P / 2, kPitch = kSpectrumPitch<P>;
  const SpectrumJob<S>& job;
  int thread;  // within the window
  int plane, token;
  bool valid;            // threads past the last token repeat it, but must not write
  int batch, top, left;  // first pixel of the window, may lie outside
  Complex<S>* shared;    // of the window: row u holds all x

  __device__ __forceinline__ SpectrumThread(const SpectrumJob<S>& job, Complex<S>* block_shared,
                                            int group, int plane)
      : job(job), plane(plane) {
    const int window = int(threadIdx.x / kHalf);
    thread = int(threadIdx.x % kHalf);
    token = group * kBlockWindows<P, S> + window;
    valid = token < job.tokens;
    token = min(token, job.tokens - 1);
    const int margin = (P - job.stride) >> 1, row = job.by_columns.quotient(token);
    left = (token - row * job.token_columns) * job.stride - margin;
    batch = job.by_rows.quotient(row);
    top = (row - batch * job.token_rows) * job.stride - margin;
    shared = block_shared + window * (kHalf * kPitch);
  }

  // The planes of the same windows one after another.
  __device__ __forceinline__ SpectrumThread(const SpectrumJob<S>& job, Complex<S>* block_shared,
                                            unsigned block)
      : SpectrumThread(job, block_shared, int(job.planes == 1 ? block : block / 3),
                       int(job.planes == 1 ? 0 : block % 3)) {}

  __device__ __forceinline__ TwoNumbers<S>& pair(int row, int number) const {
    return reinterpret_cast<TwoNumbers<S>*>(shared + row * kPitch)[number];
  }

  // Which rows the slots of this thread belong to: [0] and [1].
  __device__ __forceinline__ int first_row() const { return thread; }
  __device__ __forceinline__ int second_row() const { return thread == 0 ? kHalf : P - thread; }

  // Where the values of this window start in a dense array of (token, plane, count).
  __device__ __forceinline__ int64_t offset(int64_t count) const {
    return (int64_t(token) * job.planes + plane) * count;
  }

  // The two columns of this thread, weighted along x. Half of them: separating what was packed then
  // needs no factor.
  __device__ __forceinline__ void load(Complex<S>* z) const {
    const bool inside = top >= 0 && left >= 0 && top + P <= job.height && left + P <= job.width;
    const int64_t image = batch * job.stride_batch + plane * job.stride_colour;
#pragma unroll
    for (int y = 0; y < P; ++y) z[y] = {S(0), S(0)};
#pragma unroll 1
    for (int colour = 0; colour < job.colours; ++colour) {
      S first = job.colour_weights[colour], second = first;
      if (!job.flat) {
        first *= job.taper[2 * thread];
        second *= job.taper[2 * thread + 1];
      }
      const int64_t base = image + colour * job.stride_colour;
      with_type_of<S>(job.dtype, [&](auto type) {
        using T = decltype(type);
        const T* source = as<T>(job.image) + base;
        if (inside && job.pairs) {
          source += top * job.stride_row + left + 2 * thread;
          TwoPixels<T> pixels[P];
#pragma unroll
          for (int y = 0; y < P; ++y) {
            pixels[y] = *reinterpret_cast<const TwoPixels<T>*>(source + y * job.stride_row);
          }
#pragma unroll
          for (int y = 0; y < P; ++y) {
            z[y].re = fma(first, S(widen(pixels[y].a)), z[y].re);
            z[y].im = fma(second, S(widen(pixels[y].b)), z[y].im);
          }
        } else {
          add_reflected(source, first, second, z);
        }
      });
    }
  }

  __device__ __forceinline__ static int reflected(int i, int size) {
    i = i < 0 ? -i : i;
    return i < size ? i : 2 * (size - 1) - i;
  }

  // Seldom needed, so a loop: registers cannot be indexed by it, but the thread's row can, which
  // nobody else uses yet.
  template <typename T>
  __device__ __forceinline__ void add_reflected(const T* source, S first, S second,
                                                Complex<S>* z) const {
    Complex<S>* own = shared + thread * kPitch;
    const int64_t a = reflected(left + 2 * thread, job.width) * job.stride_column;
    const int64_t b = reflected(left + 2 * thread + 1, job.width) * job.stride_column;
#pragma unroll 1
    for (int y = 0; y < P; ++y) {
      const T* row = source + reflected(top + y, job.height) * job.stride_row;
      own[y] = {S(widen(row[a])), S(widen(row[b]))};
    }
#pragma unroll
    for (int y = 0; y < P; ++y) {
      z[y].re = fma(first, own[y].re, z[y].re);
      z[y].im = fma(second, own[y].im, z[y].im);
    }
  }

  // From pixels to the spectrum q of the thread's row.
  __device__ __forceinline__ void transform(Complex<S>* q) const {
    Complex<S> z[P];
    load(z);
    if (!job.flat) {
      static_for<0, P>([&](auto y) { z[y] = {z[y].re * job.taper[y], z[y].im * job.taper[y]}; });
    }
    transform_columns(z, S(0), q);
  }

  // The same from the thread's columns. The window is rolled by half its size, which multiplies the
  // spectrum by (-1)^(u+v). All numbers may be too large by `excess`: if they are whole, sums that
  // it is in are exact, and only that of a whole column keeps it.
  __device__ __forceinline__ void transform_columns(const Complex<S>* z, S excess,
                                                    Complex<S>* q) const {
    Complex<S> column[P];
    fft<P, S>([&](auto i) { return z[(i + kHalf) % P]; },
              [&](auto k, const Complex<S>& value) { column[k] = value; });
    column[0] = {column[0].re - S(P) * excess, column[0].im - S(P) * excess};
    __syncwarp();
    pair(0, thread) = {{column[0].re, column[kHalf].re}, {column[0].im, column[kHalf].im}};
    static_for<1, kHalf>([&](auto u) {
      const Complex<S>&a = column[u], &b = column[P - u];
      pair(u, thread) = {{a.re + b.re, a.im - b.im}, {a.im + b.im, b.re - a.re}};
    });
    __syncwarp();
    Complex<S> row[P];
    static_for<0, kHalf>([&](auto i) {
      const TwoNumbers<S> two = pair(thread, i);
      row[2 * i] = two.a;
      row[2 * i + 1] = two.b;
    });
    fft<P, S>([&](auto i) { return row[(i + kHalf) % P]; },
              [&](auto k, const Complex<S>& value) { q[k] = value; });
  }

  // From q to the slots of the thread's two rows.
  __device__ __forceinline__ void slots(const Complex<S>* q, Complex<S>* first,
                                        Complex<S>* second) const {
    const bool real = thread == 0;
    const Complex<S>&zero = q[0], &half = q[kHalf];
    first[0].re = real ? S(2) * zero.re : zero.re;
    first[0].im = real ? S(2) * half.re : zero.im;
    second[0].re = real ? S(2) * zero.im : half.re;
    second[0].im = real ? S(2) * half.im : -half.im;
    static_for<1, kHalf>([&](auto v) {
      const Complex<S>&a = q[v], &b = q[P - v];
      first[v].re = real ? a.re + b.re : a.re;
      first[v].im = real ? a.im - b.im : a.im;
      second[v].re = real ? a.im + b.im : b.re;
      second[v].im = real ? b.re - a.re : -b.im;
    });
  }

  // The adjoint of `slots`.
  __device__ __forceinline__ void slots_adjoint(const Complex<S>* first, const Complex<S>* second,
                                                Complex<S>* q) const {
    const bool real = thread == 0;
    q[0].re = real ? S(2) * first[0].re : first[0].re;
    q[0].im = real ? S(2) * second[0].re : first[0].im;
    q[kHalf].re = real ? S(2) * first[0].im : second[0].re;
    q[kHalf].im = real ? S(2) * second[0].im : -second[0].im;
    static_for<1, kHalf>([&](auto v) {
      const Complex<S>&a = first[v], &b = second[v];
      q[v].re = real ? a.re - b.im : a.re;
      q[v].im = real ? a.im + b.re : a.im;
      q[P - v].re = real ? a.re + b.im : b.re;
      q[P - v].im = real ? b.re - a.im : -b.im;
    });
  }

  // The adjoint of `transform`: writes the pixels of the window, side by side, from `target` on. An
  // inverse transform is a forward one of numbers with real and imaginary part exchanged.
  __device__ __forceinline__ void transform_adjoint(const Complex<S>* q, S* target) const {
    Complex<S> row[P], z[P];
    fft<P, S>(
        [&](auto i) { return Complex<S>{q[i].im, q[i].re}; },
        [&](auto k, const Complex<S>& value) { row[(k + kHalf) % P] = {value.im, value.re}; });
    __syncwarp();
    static_for<0, kHalf>([&](auto i) { pair(thread, i) = {row[2 * i], row[2 * i + 1]}; });
    __syncwarp();
    const TwoNumbers<S> ends = pair(0, thread);
    z[0] = {ends.a.re, ends.b.re};
    z[kHalf] = {ends.a.im, ends.b.im};
    static_for<1, kHalf>([&](auto u) {
      const TwoNumbers<S> two = pair(u, thread);
      z[u] = {two.a.re - two.b.im, two.a.im + two.b.re};
      z[P - u] = {two.a.re + two.b.im, two.b.re - two.a.im};
    });
    const S first = S(0.5) * job.taper[2 * thread], second = S(0.5) * job.taper[2 * thread + 1];
    fft<P, S>([&](auto i) { return Complex<S>{z[i].im, z[i].re}; },
              [&](auto k, const Complex<S>& value) {
                constexpr int y = (k + kHalf) % P;
                if (!valid) return;
                reinterpret_cast<TwoPixels<S>*>(target + y * P)[thread] = {
                    value.im * (first * job.taper[y]), value.re * (second * job.taper[y])};
              });
  }
};

}  // namespace device
}  // namespace freqdiff
