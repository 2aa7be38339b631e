// Kernel of fft_features: per group of 2 * kLanes windows, two real windows are packed as the real
// and imaginary part of one complex signal and every vector lane transforms one such pair.
// Included inside the namespace of one instruction set, after fft.h.

template <int P, typename S>
struct FeatureScratch {
  // Rows a little longer than P, and windows than P * P: powers of two would collide in the cache.
  static constexpr int kPitch = P + 1;
  static constexpr int kWindowPitch = P * P + 64 / sizeof(S);
  alignas(64) Complex<S> spectrum[P * kPitch];
  alignas(64) S windows[kLanes * kWindowPitch];
  alignas(64) Vec<S> slots[6][kLanes];
};

template <int P, typename S>
FeatureScratch<P, S>& feature_scratch() {
  // Kept per thread: a fresh allocation of this size costs page faults at every call.
  thread_local std::unique_ptr<FeatureScratch<P, S>> scratch(new FeatureScratch<P, S>);
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

// Transforms the windows of kLanes tokens from `first` (real part) and of the kLanes after them
// (imaginary part). The taper is halved: separating the pair again then needs no factor. The window
// is rolled by half its size, which multiplies the spectrum by (-1)^(u+v).
template <int P, typename S>
void transform_group(const FeatureJob& job, int64_t first, int plane,
                     FeatureScratch<P, S>& scratch) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  constexpr int kWindowPitch = FeatureScratch<P, S>::kWindowPitch;
  for (int half = 0; half < 2; ++half) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t token = std::min(first + half * kLanes + lane, job.tokens() - 1);
      S* target = scratch.windows + lane * kWindowPitch;
      with_type(job.dtype, [&](auto type) {
        load_window<P, S, decltype(type)>(job, locate(job, token), plane, target);
      });
    }
    for (int start = 0; start < P * P; start += kLanes) {
      Vec<S> lines[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        lines[lane] = load(scratch.windows + lane * kWindowPitch + start);
      }
      transpose<S>(lines);
      for (int i = 0; i < kLanes; ++i) {
        const int row = (start + i) / P, column = (start + i) % P;
        const S weight = S(0.5 * job.taper[row] * job.taper[column]);
        Complex<S>& entry = scratch.spectrum[(row + P / 2) % P * kPitch + (column + P / 2) % P];
        (half ? entry.im : entry.re) = lines[i] * weight;
      }
    }
  }
  fft_square<P, S>(scratch.spectrum, kPitch);
}

// The spectra of both windows of a pair at (u, v).
template <typename S>
struct Pair {
  Complex<S> a, b;
};

template <int P, typename S>
FREQDIFF_INLINE Pair<S> separate(const FeatureScratch<P, S>& scratch, int u, int v) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  const Complex<S>& z = scratch.spectrum[u * kPitch + v];
  const Complex<S>& mirror = scratch.spectrum[(P - u) % P * kPitch + (P - v) % P];
  return {{z.re + mirror.re, z.im - mirror.im}, {z.im + mirror.im, mirror.re - z.re}};
}

// The packed half plane: see pack_half_plane in reference.py.
template <int P, typename S>
FREQDIFF_INLINE Pair<S> slot_value(const FeatureScratch<P, S>& scratch, int u, int v) {
  if (v > 0) return separate<P, S>(scratch, u, v);
  if (u % (P / 2) == 0) {
    const Pair<S> first = separate<P, S>(scratch, u, 0), last = separate<P, S>(scratch, u, P / 2);
    return {{first.a.re, last.a.re}, {first.b.re, last.b.re}};
  }
  return separate<P, S>(scratch, u, u < P / 2 ? 0 : P / 2);
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
  constexpr int kSlots = P * P / 2;
  FeatureScratch<P, S>& scratch = feature_scratch<P, S>();
  const int64_t channels = int64_t(job.planes()) * 3 * kSlots;
  for (int64_t work = begin; work < end; ++work) {
    const int64_t first = work * 2 * kLanes;
    for (int plane = 0; plane < job.planes(); ++plane) {
      transform_group<P, S>(job, first, plane, scratch);
      for (int start = 0; start < kSlots; start += kLanes) {
        for (int i = 0; i < kLanes; ++i) {
          const int u = (start + i) / (P / 2), v = (start + i) % (P / 2);
          const Pair<S> pair = slot_value<P, S>(scratch, u, v);
          for (int half = 0; half < 2; ++half) {
            const Complex<S>& x = half ? pair.b : pair.a;
            const Vec<S> square = x.re * x.re + x.im * x.im + S(job.floor);
            const Vec<S> inverse = inverse_sqrt(square);
            scratch.slots[3 * half][i] = log(square) * S(0.5);
            scratch.slots[3 * half + 1][i] = x.re * inverse;
            scratch.slots[3 * half + 2][i] = x.im * inverse;
          }
        }
        for (int half = 0; half < 2; ++half) {
          const int64_t token = first + half * kLanes;
          const int count = int(std::min<int64_t>(kLanes, job.tokens() - token));
          if (count <= 0) break;
          for (int kind = 0; kind < 3; ++kind) {
            const int64_t offset = token * channels + (3 * plane + kind) * kSlots + start;
            with_float_type<S>(job.features_dtype, [&](auto type) {
              using T = decltype(type);
              write_block<S, T>(scratch.slots[3 * half + kind],
                                static_cast<T*>(job.features) + offset, channels, count,
                                job.stream);
            });
          }
        }
      }
    }
  }
  finish_streams();
}

// Replaces the spectrum by that of the gradients of both windows, made Hermitian so that one
// complex transform brings both back: re and im are swapped, which turns the forward transform into
// the inverse. `grads` holds [log, cosine, sine] of the first windows, then of the second.
template <int P, typename S>
FREQDIFF_INLINE void slot_gradient(const FeatureJob& job, FeatureScratch<P, S>& scratch, int u,
                                   int v, int i) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  const Pair<S> pair = slot_value<P, S>(scratch, u, v);
  Complex<S> gradient[2];
  for (int half = 0; half < 2; ++half) {
    const Complex<S>& x = half ? pair.b : pair.a;
    const Vec<S>* grads = &scratch.slots[3 * half][i];
    const Vec<S> log_grad = grads[0], cosine_grad = grads[kLanes], sine_grad = grads[2 * kLanes];
    const Vec<S> inverse = inverse_sqrt(x.re * x.re + x.im * x.im + S(job.floor));
    const Vec<S> cosine = x.re * inverse, sine = x.im * inverse;
    const Vec<S> radial = log_grad - cosine_grad * cosine - sine_grad * sine;
    gradient[half] = {(radial * cosine + cosine_grad) * inverse,
                      (radial * sine + sine_grad) * inverse};
  }
  const Complex<S>&a = gradient[0], &b = gradient[1];
  if (v == 0 && u % (P / 2) == 0) {
    scratch.spectrum[u * kPitch] = {b.re * S(2), a.re * S(2)};
    scratch.spectrum[u * kPitch + P / 2] = {b.im * S(2), a.im * S(2)};
    return;
  }
  const int column = v == 0 && u > P / 2 ? P / 2 : v;
  scratch.spectrum[u * kPitch + column] = {a.im + b.re, a.re - b.im};
  scratch.spectrum[(P - u) % P * kPitch + (P - column) % P] = {b.re - a.im, a.re + b.im};
}

template <int P, typename S>
void backward_groups(const FeatureJob& job, int64_t begin, int64_t end) {
  constexpr int kSlots = P * P / 2, kPitch = FeatureScratch<P, S>::kPitch;
  FeatureScratch<P, S>& scratch = feature_scratch<P, S>();
  const int64_t channels = int64_t(job.planes()) * 3 * kSlots;
  S* result = static_cast<S*>(job.window_grad);
  for (int64_t work = begin; work < end; ++work) {
    const int64_t first = work * 2 * kLanes;
    for (int plane = 0; plane < job.planes(); ++plane) {
      transform_group<P, S>(job, first, plane, scratch);
      for (int start = 0; start < kSlots; start += kLanes) {
        for (int block = 0; block < 6; ++block) {
          const int half = block / 3, kind = block % 3;
          Vec<S>* lines = scratch.slots[block];
          with_float_type<S>(job.features_dtype, [&](auto type) {
            using T = decltype(type);
            const T* grads =
                static_cast<const T*>(job.features) + (3 * plane + kind) * kSlots + start;
            for (int lane = 0; lane < kLanes; ++lane) {
              const int64_t token = std::min(first + half * kLanes + lane, job.tokens() - 1);
              lines[lane] = load_float(grads + token * channels);
            }
          });
          transpose<S>(lines);
        }
        for (int i = 0; i < kLanes; ++i) {
          slot_gradient<P, S>(job, scratch, (start + i) / (P / 2), (start + i) % (P / 2), i);
        }
      }
      fft_square<P, S>(scratch.spectrum, kPitch);
      for (int half = 0; half < 2; ++half) {
        const int64_t token = first + half * kLanes;
        const int count = int(std::min<int64_t>(kLanes, job.tokens() - token));
        for (int start = 0; start < P * P; start += kLanes) {
          Vec<S> lines[kLanes];
          for (int i = 0; i < kLanes; ++i) {
            const int row = (start + i) / P, column = (start + i) % P;
            const S weight = S(0.5 * job.taper[row] * job.taper[column]);
            const Complex<S>& entry =
                scratch.spectrum[(row + P / 2) % P * kPitch + (column + P / 2) % P];
            lines[i] = (half ? entry.re : entry.im) * weight;
          }
          transpose<S>(lines);
          for (int lane = 0; lane < count; ++lane) {
            store(result + ((token + lane) * job.planes() + plane) * P * P + start, lines[lane]);
          }
        }
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
