// Kernels of fft_features: spectra to log magnitude and phase, its backward, and the sum of window
// gradients into the image.
// Included inside the namespace of one instruction set, after window_spectrum.h.

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
  Group next = locate<P>(job, begin * kLanes);
  for (int64_t work = begin; work < end; ++work) {
    const int64_t first = work * kLanes;
    const int count = int(std::min<int64_t>(kLanes, job.tokens() - first));
    const Group group = next;
    next = locate<P>(job, first + kLanes);
    for (int plane = 0; plane < job.planes(); ++plane) {
      transform_group<P, S>(job, group, plane, next, scratch);
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

template <int P, typename S>
void backward_groups(const FeatureJob& job, int64_t begin, int64_t end) {
  FeatureScratch<P, S>& scratch = feature_scratch<P, S>(job);
  const int64_t channels = int64_t(job.planes()) * 3 * P * P / 2;
  Group next = locate<P>(job, begin * kLanes);
  for (int64_t work = begin; work < end; ++work) {
    const int64_t first = work * kLanes;
    const int count = int(std::min<int64_t>(kLanes, job.tokens() - first));
    const Group group = next;
    next = locate<P>(job, first + kLanes);
    for (int plane = 0; plane < job.planes(); ++plane) {
      transform_group<P, S>(job, group, plane, next, scratch);
      with_float_type<S>(job.features_dtype, [&](auto type) {
        using T = decltype(type);
        const T* grads =
            static_cast<const T*>(job.features) + first * channels + 3 * plane * P * P / 2;
        slot_gradients<P, S, T>(job, grads, channels, count, scratch);
      });
      S* target = static_cast<S*>(job.window_grad) + (first * job.planes() + plane) * P * P;
      transform_group_adjoint<P, S>(scratch, target, int64_t(job.planes()) * P * P, count);
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
