// Kernel of fft_features: every vector lane transforms one window, so results do not depend on
// which windows are neighbours. Within a window two real rows are packed as one complex signal, and
// so are the two real columns (v = 0 and v = P/2) that the row transforms leave. Included inside
// the namespace of one instruction set, after fft.h.

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

struct Token {
  int64_t batch, row, column;
};

inline Token locate(const FeatureJob& job, int64_t token) {
  const int64_t columns = job.token_columns(), rows = job.token_rows();
  return {token / (columns * rows), token / columns % rows, token % columns};
}

template <int P, typename S, typename T>
void load_window(const FeatureJob& job, const Token& token, int plane, S* target) {
  const T* image = static_cast<const T*>(job.image) + token.batch * job.stride_batch;
  const int64_t left = token.column * job.stride - job.margin();
  const bool inside = left >= 0 && left + P <= job.width;
  const int32_t* columns = job.columns.data() + token.column * job.stride;
  const S unit = std::is_integral_v<T> ? S(1) / S(255) : S(1);
  const int64_t colour = job.stride_colour;
  for (int row = 0; row < P; ++row, target += P) {
    const T* line = image + job.rows[token.row * job.stride + row] * job.stride_row;
    if (job.rgb) {
      line += plane * colour;
      if (inside) {
        line += left;
        for (int i = 0; i < P; ++i) target[i] = S(to_float(line[i])) * unit;
      } else {
        for (int i = 0; i < P; ++i) target[i] = S(to_float(line[columns[i]])) * unit;
      }
      continue;
    }
    const auto luma = [&](const T* pixel) __attribute__((always_inline)) {
      return (S(0.299) * S(to_float(pixel[0])) + S(0.587) * S(to_float(pixel[colour])) +
              S(0.114) * S(to_float(pixel[2 * colour]))) *
             unit;
    };
    if (inside) {
      line += left;
      for (int i = 0; i < P; ++i) target[i] = luma(line + i);
    } else {
      for (int i = 0; i < P; ++i) target[i] = luma(line + columns[i]);
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

// Loads the windows of kLanes tokens from `first` on and transforms them to slots. The window is
// rolled by half its size, which multiplies the spectrum by (-1)^(u+v).
template <int P, typename S>
void transform_group(const FeatureJob& job, int64_t first, int plane,
                     FeatureScratch<P, S>& scratch) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  constexpr int kWindowPitch = FeatureScratch<P, S>::kWindowPitch;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t token = std::min(first + lane, job.tokens() - 1);
    S* target = scratch.windows + lane * kWindowPitch;
    with_type(job.dtype, [&](auto type) {
      load_window<P, S, decltype(type)>(job, locate(job, token), plane, target);
    });
  }
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

// Writes a block of kLanes channels by kLanes tokens: block[i] holds channel i of every token.
template <typename S, typename T>
void write_block(Vec<S>* block, T* target, int64_t pitch, int count, bool streaming) {
  transpose<S>(block);
  for (int lane = 0; lane < count; ++lane) {
    T* line = target + lane * pitch;
    if constexpr (std::is_same_v<T, float>) {
      if (streaming) {
        stream(line, block[lane]);
        continue;
      }
    }
    store_float(line, block[lane]);
  }
}

template <int P, typename S>
void forward_groups(const FeatureJob& job, int64_t begin, int64_t end) {
  constexpr int kSlots = P * P / 2, kPitch = FeatureScratch<P, S>::kPitch;
  FeatureScratch<P, S>& scratch = feature_scratch<P, S>(job);
  const int64_t channels = int64_t(job.planes()) * 3 * kSlots;
  for (int64_t work = begin; work < end; ++work) {
    const int64_t first = work * kLanes;
    const int count = int(std::min<int64_t>(kLanes, job.tokens() - first));
    for (int plane = 0; plane < job.planes(); ++plane) {
      transform_group<P, S>(job, first, plane, scratch);
      for (int start = 0; start < kSlots; start += kLanes) {
        for (int i = 0; i < kLanes; ++i) {
          const int u = (start + i) / (P / 2), v = (start + i) % (P / 2);
          const Complex<S>& x = scratch.spectrum[u * kPitch + v];
          const Vec<S> square = x.re * x.re + x.im * x.im + S(job.floor);
          const Vec<S> inverse = inverse_sqrt(square);
          scratch.slots[0][i] = log(square) * S(0.5);
          scratch.slots[1][i] = x.re * inverse;
          scratch.slots[2][i] = x.im * inverse;
        }
        with_float_type<S>(job.features_dtype, [&](auto type) {
          using T = decltype(type);
          T* target = static_cast<T*>(job.features) + first * channels + 3 * plane * kSlots + start;
          for (int kind = 0; kind < 3; ++kind) {
            write_block<S, T>(scratch.slots[kind], target + kind * kSlots, channels, count,
                              job.stream);
          }
        });
      }
    }
  }
  finish_streams();
}

// Replaces the slots of the spectrum by their gradients; those of the features start at `grads`.
template <int P, typename S, typename T>
void slot_gradients(const FeatureJob& job, const T* grads, int64_t channels, int count,
                    FeatureScratch<P, S>& scratch) {
  constexpr int kSlots = P * P / 2, kPitch = FeatureScratch<P, S>::kPitch;
  for (int start = 0; start < kSlots; start += kLanes) {
    for (int kind = 0; kind < 3; ++kind) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t token = std::min(lane, count - 1);
        scratch.slots[kind][lane] = load_float(grads + token * channels + kind * kSlots + start);
      }
      transpose<S>(scratch.slots[kind]);
    }
    for (int i = 0; i < kLanes; ++i) {
      Complex<S>& x = scratch.spectrum[(start + i) / (P / 2) * kPitch + (start + i) % (P / 2)];
      const Vec<S>&log_grad = scratch.slots[0][i], &cosine_grad = scratch.slots[1][i],
            &sine_grad = scratch.slots[2][i];
      const Vec<S> inverse = inverse_sqrt(x.re * x.re + x.im * x.im + S(job.floor));
      const Vec<S> cosine = x.re * inverse, sine = x.im * inverse;
      const Vec<S> radial = log_grad - cosine_grad * cosine - sine_grad * sine;
      x = {(radial * cosine + cosine_grad) * inverse, (radial * sine + sine_grad) * inverse};
    }
  }
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

template <int P, typename S>
void backward_groups(const FeatureJob& job, int64_t begin, int64_t end) {
  constexpr int kWindowPitch = FeatureScratch<P, S>::kWindowPitch;
  FeatureScratch<P, S>& scratch = feature_scratch<P, S>(job);
  const int64_t channels = int64_t(job.planes()) * 3 * P * P / 2;
  S* result = static_cast<S*>(job.window_grad);
  for (int64_t work = begin; work < end; ++work) {
    const int64_t first = work * kLanes;
    const int count = int(std::min<int64_t>(kLanes, job.tokens() - first));
    for (int plane = 0; plane < job.planes(); ++plane) {
      transform_group<P, S>(job, first, plane, scratch);
      with_float_type<S>(job.features_dtype, [&](auto type) {
        using T = decltype(type);
        const T* grads =
            static_cast<const T*>(job.features) + first * channels + 3 * plane * P * P / 2;
        slot_gradients<P, S, T>(job, grads, channels, count, scratch);
      });
      transform_group_adjoint<P, S>(scratch);
      for (int lane = 0; lane < count; ++lane) {
        const S* source = scratch.windows + lane * kWindowPitch;
        S* target = result + ((first + lane) * job.planes() + plane) * P * P;
        std::memcpy(target, source, P * P * sizeof(S));
      }
    }
  }
}

// Adds the window gradients that touch one image row, always in the same order, and folds the
// reflected pixels back.
template <typename S>
void gather_row(const FeatureJob& job, int64_t batch, int64_t y) {
  const int64_t margin = job.margin(), window = job.window, stride = job.stride;
  const S* windows = static_cast<const S*>(job.window_grad);
  std::vector<S> line(job.width + 2 * margin);
  for (int plane = 0; plane < job.planes(); ++plane) {
    std::fill(line.begin(), line.end(), S(0));
    const auto add_row = [&](int64_t padded) {
      const int64_t last = std::min(padded / stride, job.token_rows() - 1);
      for (int64_t row = std::max<int64_t>(0, padded - window + stride) / stride; row <= last;
           ++row) {
        for (int64_t column = 0; column < job.token_columns(); ++column) {
          const int64_t token = (batch * job.token_rows() + row) * job.token_columns() + column;
          const S* source =
              windows +
              ((token * job.planes() + plane) * window + (padded - row * stride)) * window;
          S* target = line.data() + column * stride;
          for (int64_t i = 0; i < window; ++i) target[i] += source[i];
        }
      }
    };
    add_row(y + margin);
    for (int64_t border = 0; border < 2 * margin; ++border) {
      const int64_t padded = border < margin ? border : job.height + border;
      if (job.rows[padded] == y) add_row(padded);
    }
    for (int64_t border = 0; border < 2 * margin; ++border) {
      const int64_t padded = border < margin ? border : job.width + border;
      line[margin + job.columns[padded]] += line[padded];
    }
    with_float_type<S>(job.dtype, [&](auto type) {
      using T = decltype(type);
      const S luma[3] = {S(0.299), S(0.587), S(0.114)};
      for (int colour = job.rgb ? plane : 0; colour <= (job.rgb ? plane : 2); ++colour) {
        const S weight = job.rgb ? S(1) : luma[colour];
        T* target =
            static_cast<T*>(job.image_grad) + ((batch * 3 + colour) * job.height + y) * job.width;
        for (int64_t x = 0; x < job.width; ++x) {
          target[x] = from_float<T>(line[margin + x] * weight);
        }
      }
    });
  }
}

template <typename S>
void features_forward(const FeatureJob& job, int64_t begin, int64_t end) {
  switch (job.window) {
    case 8:
      return forward_groups<8, S>(job, begin, end);
    case 16:
      return forward_groups<16, S>(job, begin, end);
    case 32:
      return forward_groups<32, S>(job, begin, end);
    case 64:
      return forward_groups<64, S>(job, begin, end);
  }
}

template <typename S>
void features_backward(const FeatureJob& job, int64_t begin, int64_t end) {
  switch (job.window) {
    case 8:
      return backward_groups<8, S>(job, begin, end);
    case 16:
      return backward_groups<16, S>(job, begin, end);
    case 32:
      return backward_groups<32, S>(job, begin, end);
    case 64:
      return backward_groups<64, S>(job, begin, end);
  }
}

template <typename S>
void features_gather(const FeatureJob& job, int64_t begin, int64_t end) {
  for (int64_t work = begin; work < end; ++work) {
    gather_row<S>(job, work / job.height, work % job.height);
  }
}
