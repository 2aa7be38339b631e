// Transform of groups of windows to packed spectra, and its adjoint. Every vector lane transforms
// one window, so results do not depend on which windows are neighbours. Within a window two real
// rows are packed as one complex signal, and so are the two real columns (v = 0 and v = P/2) that
// the row transforms leave.
// Included inside the namespace of one instruction set, after fft.h.

template <int P, typename S>
struct FeatureScratch {
  // Longer than the data by a few entries: powers of two would collide in the cache.
  static constexpr int kPitch = P / 2 + 1;
  static constexpr int kWindowPitch = P * P + 64 / sizeof(S);
  // Row u holds the slots (u, v), v in [0, P/2), of kLanes windows.
  alignas(64) Complex<S> spectrum[P * kPitch];
  alignas(64) S windows[kLanes * kWindowPitch];
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

template <int P, typename S, typename T>
void load_window(const FeatureJob& job, const Group::Window& window, int plane,
                 S* __restrict target) {
  const T* image = static_cast<const T*>(job.image) + window.base;
  const S unit = std::is_integral_v<T> ? S(1) / S(255) : S(1);
  const int64_t colour = job.stride_colour;
  if (job.rgb) image += plane * colour;
  const auto value = [&](const T* pixel, auto rgb) __attribute__((always_inline)) {
    if constexpr (rgb) return S(to_float(*pixel)) * unit;
    return (S(0.299) * S(to_float(pixel[0])) + S(0.587) * S(to_float(pixel[colour])) +
            S(0.114) * S(to_float(pixel[2 * colour]))) *
           unit;
  };
  const auto fill = [&](auto rgb) __attribute__((always_inline)) {
    for (int row = 0; row < P; ++row, target += P) {
      const T* line = image + window.rows[row] * job.stride_row;
      if (window.inside) {
        for (int i = 0; i < P; ++i) target[i] = value(line + window.left + i, rgb);
      } else {
        for (int i = 0; i < P; ++i) target[i] = value(line + window.columns[i], rgb);
      }
    }
  };
  if (job.rgb) {
    fill(std::true_type{});
  } else {
    fill(std::false_type{});
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

// Loads one plane of a group of windows and transforms it to slots. The window is rolled by half
// its size, which multiplies the spectrum by (-1)^(u+v).
template <int P, typename S>
void transform_group(const FeatureJob& job, const Group& group, int plane,
                     FeatureScratch<P, S>& scratch) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  constexpr int kWindowPitch = FeatureScratch<P, S>::kWindowPitch;
  with_type(job.dtype, [&](auto type) {
    for (int lane = 0; lane < kLanes; ++lane) {
      load_window<P, S, decltype(type)>(job, group.windows[lane], plane,
                                        scratch.windows + lane * kWindowPitch);
    }
  });
  for (int row = 0; row < P; row += 2) {
    Vec<S> pixels[2 * P];
    for (int start = 0; start < 2 * P; start += kLanes) {
      Vec<S>* lines = pixels + start;
      for (int lane = 0; lane < kLanes; ++lane) {
        lines[lane] = load(scratch.windows + lane * kWindowPitch + row * P + start);
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

// The adjoint of transform_group without its loads: slots to pixels, each step of it backwards. An
// inverse transform is a forward one of numbers with real and imaginary part exchanged.
template <int P, typename S>
void transform_group_adjoint(FeatureScratch<P, S>& scratch) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  constexpr int kWindowPitch = FeatureScratch<P, S>::kWindowPitch;
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
      for (int lane = 0; lane < kLanes; ++lane) {
        store(scratch.windows + lane * kWindowPitch + row * P + start, lines[lane]);
      }
    }
  }
}
