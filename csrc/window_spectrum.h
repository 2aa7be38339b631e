// Transform of groups of windows to packed spectra, and its adjoint. Every vector lane transforms
// one window, so results do not depend on which windows are neighbours. Within a window two real
// rows are packed as one complex signal, and so are the two real columns (v = 0 and v = P/2) that
// the row transforms leave.
// Included inside the namespace of one instruction set, after fft.h.

template <int P, typename S>
struct FeatureScratch {
  // Longer than the data by a few entries: powers of two would collide in the cache.
  static constexpr int kPitch = P / 2 + 1;
  static constexpr int kRowPitch = 2 * P + 64 / sizeof(S);
  // Row u holds the slots (u, v), v in [0, P/2), of kLanes windows.
  alignas(64) Complex<S> spectrum[P * kPitch];
  alignas(64) S rows[kLanes * kRowPitch];  // two rows of every window
  alignas(64) S weights[P * P];
  alignas(64) Vec<S> slots[3][kLanes];
};

// The scratch of this thread, kept between calls: a fresh allocation of this size costs page
// faults.
template <int P, typename S>
FeatureScratch<P, S>& feature_scratch(const FeatureJob& job) {
  thread_local std::unique_ptr<FeatureScratch<P, S>> scratch(new FeatureScratch<P, S>);
  // Half the taper: separating two packed signals then needs no factor.
  for (int i = 0; i < P * P; ++i) {
    scratch->weights[i] = S(0.5 * job.taper[i / P] * job.taper[i % P]);
  }
  return *scratch;
}

// Where the windows of one group lie in the image; lanes past the end repeat the last window.
struct Group {
  struct Window {
    int64_t base;         // offset of the image in the batch
    const int32_t* rows;  // image row of every window row
    const int32_t* columns;
    int64_t left;
    bool inside;  // no reflection along x
  };
  Window windows[kLanes];
};

template <int P>
Group locate(const FeatureJob& job, int64_t first) {
  Group group;
  const int64_t columns = job.token_columns(), rows = job.token_rows();
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t token = std::min(first + lane, job.tokens() - 1);
    const int64_t left = token % columns * job.stride - job.margin();
    group.windows[lane] = {token / (columns * rows) * job.stride_batch,
                           job.rows.data() + token / columns % rows * job.stride,
                           job.columns.data() + token % columns * job.stride, left,
                           left >= 0 && left + P <= job.width};
  }
  return group;
}

// One row of a window: P pixels of one colour, or their luma.
template <int P, typename S, typename T>
FREQDIFF_INLINE void load_row(const FeatureJob& job, const typename Group::Window& window,
                              int plane, int row, S* __restrict target) {
  const T* line =
      static_cast<const T*>(job.image) + window.base + window.rows[row] * job.stride_row;
  const S unit = std::is_integral_v<T> ? S(1) / S(255) : S(1);
  if (job.rgb) {
    line += plane * job.stride_colour;
    if (!window.inside) {
      for (int i = 0; i < P; ++i) target[i] = S(to_float(line[window.columns[i]])) * unit;
    } else if constexpr (std::is_same_v<T, S>) {
      std::memcpy(target, line + window.left, P * sizeof(S));
    } else {
      for (int i = 0; i < P; ++i) target[i] = S(to_float(line[window.left + i])) * unit;
    }
    return;
  }
  const T *green = line + job.stride_colour, *blue = green + job.stride_colour;
  const auto luma = [&](int64_t x) __attribute__((always_inline)) {
    return (S(0.299) * S(to_float(line[x])) + S(0.587) * S(to_float(green[x])) +
            S(0.114) * S(to_float(blue[x]))) *
           unit;
  };
  if (window.inside) {
    for (int i = 0; i < P; ++i) target[i] = luma(window.left + i);
  } else {
    for (int i = 0; i < P; ++i) target[i] = luma(window.columns[i]);
  }
}

// Starts to fetch two rows of the windows that come next, while this plane is computed. The pieces
// of rows are too short for the hardware to foresee (AMD EPYC, one thread, 4K, P16 S16 rgb: 36 ->
// 26 ms; windows of 8 pixels lie so close together that it costs more than it brings).
template <int P>
FREQDIFF_INLINE void prefetch_rows(const FeatureJob& job, const Group& group, int plane, int row) {
  if constexpr (P < 16) return;
  const int64_t item = item_size(job.dtype);
  const char* image = static_cast<const char*>(job.image);
  const int first = job.rgb ? plane : 0, last = job.rgb ? plane : 2;
  for (int colour = first; colour <= last; ++colour) {
    for (int i = row; i < row + 2; ++i) {
      for (const Group::Window& window : group.windows) {
        const char* line = image + (window.base + colour * job.stride_colour +
                                    window.rows[i] * job.stride_row + window.columns[0]) *
                                       item;
        for (int64_t byte = 0; byte < P * item; byte += 64) __builtin_prefetch(line + byte);
      }
    }
  }
}

// Turns the packed column Z = X(., 0) + i X(., P/2) into the slots (u, 0), in place.
template <int P, typename S>
void separate_column(FeatureScratch<P, S>& scratch) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  for (int u : {0, P / 2}) {
    Complex<S>& z = scratch.spectrum[u * kPitch];
    z = {z.re * S(2), z.im * S(2)};
  }
  for (int u = 1; u < P / 2; ++u) {
    Complex<S>&lower = scratch.spectrum[u * kPitch], &upper = scratch.spectrum[(P - u) * kPitch];
    const Complex<S> first{lower.re + upper.re, lower.im - upper.im};
    upper = {upper.im + lower.im, lower.re - upper.re};
    lower = first;
  }
}

// Whether vectors can be loaded from the rows of the image as they are.
template <int P, typename S>
bool readable_in_place(const FeatureJob& job, const Group& group) {
  constexpr Dtype kOwn = std::is_same_v<S, double> ? Dtype::kFloat64 : Dtype::kFloat32;
  bool readable = P % kLanes == 0 && job.rgb && job.dtype == kOwn;
  for (const Group::Window& window : group.windows) readable = readable && window.inside;
  return readable;
}

// Loads one plane of a group of windows and transforms it to slots. The window is rolled by half
// its size, which multiplies the spectrum by (-1)^(u+v).
template <int P, typename S>
void transform_group(const FeatureJob& job, const Group& group, int plane, const Group& next_group,
                     FeatureScratch<P, S>& scratch) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  constexpr int kRowPitch = FeatureScratch<P, S>::kRowPitch;
  const bool direct = readable_in_place<P, S>(job, group);
  for (int row = 0; row < P; row += 2) {
    // Rows of all lanes together: neighbouring windows continue each other's rows.
    if (!direct) {
      with_type(job.dtype, [&](auto type) {
        for (int i = 0; i < 2; ++i) {
          for (int lane = 0; lane < kLanes; ++lane) {
            load_row<P, S, decltype(type)>(job, group.windows[lane], plane, row + i,
                                           scratch.rows + lane * kRowPitch + i * P);
          }
        }
      });
    }
    if (plane + 1 < job.planes()) {
      prefetch_rows<P>(job, group, plane + 1, row);
    } else {
      prefetch_rows<P>(job, next_group, 0, row);
    }
    Vec<S> pixels[2 * P];
    for (int start = 0; start < 2 * P; start += kLanes) {
      Vec<S>* lines = pixels + start;
      for (int lane = 0; lane < kLanes; ++lane) {
        const Group::Window& window = group.windows[lane];
        lines[lane] = load(
            direct ? static_cast<const S*>(job.image) + window.base + plane * job.stride_colour +
                         window.rows[row + start / P] * job.stride_row + window.left + start % P
                   : scratch.rows + lane * kRowPitch + start);
      }
      transpose<S>(lines);
      for (int i = 0; i < kLanes; ++i) lines[i] *= scratch.weights[row * P + start + i];
    }
    Complex<S> z[P];
    fft<P, S>(
        [&](auto i) __attribute__((always_inline)) {
          constexpr int column = (i + P / 2) % P;
          return Complex<S>{pixels[column], pixels[P + column]};
        },
        [&](auto k, const Complex<S>& value) __attribute__((always_inline)) { z[k] = value; });
    Complex<S>* even = scratch.spectrum + (row + P / 2) % P * kPitch;
    Complex<S>* odd = even + kPitch;
    even[0] = {z[0].re, z[P / 2].re};
    odd[0] = {z[0].im, z[P / 2].im};
    static_for<1, P / 2>([&](auto v) __attribute__((always_inline)) {
      const Complex<S>&a = z[v], &b = z[P - v];
      even[v] = {a.re + b.re, a.im - b.im};
      odd[v] = {a.im + b.im, b.re - a.re};
    });
  }
  for (int v = 0; v < P / 2; ++v) {
    Complex<S>* column = scratch.spectrum + v;
    fft<P, S>([&](auto i) __attribute__((always_inline)) { return column[i * kPitch]; },
              [&](auto k, const Complex<S>& value)
                  __attribute__((always_inline)) { column[k * kPitch] = value; });
  }
  separate_column<P, S>(scratch);
}

// The adjoint of transform_group, each step of it backwards: from slots to the pixels of `count`
// windows, `pitch` apart from `target` on. An inverse transform is a forward one of numbers with
// real and imaginary part exchanged.
template <int P, typename S>
void transform_group_adjoint(FeatureScratch<P, S>& scratch, S* target, int64_t pitch, int count) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  for (int u : {0, P / 2}) {
    Complex<S>& z = scratch.spectrum[u * kPitch];
    z = {z.re * S(2), z.im * S(2)};
  }
  for (int u = 1; u < P / 2; ++u) {
    Complex<S>&lower = scratch.spectrum[u * kPitch], &upper = scratch.spectrum[(P - u) * kPitch];
    const Complex<S> first{lower.re + upper.im, lower.im + upper.re};
    upper = {lower.re - upper.im, upper.re - lower.im};
    lower = first;
  }
  for (int v = 0; v < P / 2; ++v) {
    Complex<S>* column = scratch.spectrum + v;
    fft<P, S>(
        [&](auto i) __attribute__((always_inline)) {
          return Complex<S>{column[i * kPitch].im, column[i * kPitch].re};
        },
        [&](auto k, const Complex<S>& value)
            __attribute__((always_inline)) { column[k * kPitch] = {value.im, value.re}; });
  }
  for (int row = 0; row < P; row += 2) {
    const Complex<S>* even = scratch.spectrum + (row + P / 2) % P * kPitch;
    const Complex<S>* odd = even + kPitch;
    Complex<S> z[P];
    z[0] = {odd[0].re, even[0].re};
    z[P / 2] = {odd[0].im, even[0].im};
    static_for<1, P / 2>([&](auto v) __attribute__((always_inline)) {
      z[v] = {even[v].im + odd[v].re, even[v].re - odd[v].im};
      z[P - v] = {odd[v].re - even[v].im, even[v].re + odd[v].im};
    });
    Vec<S> pixels[2 * P];
    fft<P, S>([&](auto i) __attribute__((always_inline)) { return z[i]; },
              [&](auto k, const Complex<S>& value) __attribute__((always_inline)) {
                constexpr int column = (k + P / 2) % P;
                pixels[column] = value.im;
                pixels[P + column] = value.re;
              });
    for (int start = 0; start < 2 * P; start += kLanes) {
      Vec<S>* lines = pixels + start;
      for (int i = 0; i < kLanes; ++i) lines[i] *= scratch.weights[row * P + start + i];
      transpose<S>(lines);
      for (int lane = 0; lane < count; ++lane) {
        store(target + lane * pitch + row * P + start, lines[lane]);
      }
    }
  }
}
