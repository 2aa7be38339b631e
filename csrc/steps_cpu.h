// Kernel of ddim_step: runs of values pass through small buffers that stay in the first-level
// cache. Included inside the namespace of one instruction set, after tiles_cpu.h.

template <typename S>
void step_run(const StepJob& job, const double* coefficients, const S* x, const S* f, const S* y,
              int count, S* out) {
  const S cx = S(coefficients[0]), cf = S(coefficients[1]), cy = S(coefficients[2]),
          kx = S(coefficients[3]), k0 = S(coefficients[4]);
  const auto run = [&](auto anchored, auto clamped) __attribute__((always_inline)) {
    for (int i = 0; i < count; ++i) {
      S estimate = cx * x[i] + cf * f[i];
      if constexpr (anchored) estimate += cy * y[i];
      if constexpr (clamped) {
        estimate = estimate > S(1) ? S(1) : estimate;
        estimate = estimate < S(-1) ? S(-1) : estimate;
      }
      out[i] = kx * x[i] + k0 * estimate;
    }
  };
  if (y) {
    job.clamp ? run(std::true_type{}, std::true_type{}) : run(std::true_type{}, std::false_type{});
  } else {
    job.clamp ? run(std::false_type{}, std::true_type{})
              : run(std::false_type{}, std::false_type{});
  }
}

template <typename S>
void step_values(const StepJob& job, int64_t begin, int64_t end) {
  alignas(64) S x_buffer[kRunValues], f_buffer[kRunValues], y_buffer[kRunValues], out[kRunValues];
  for (int64_t position = begin; position < end;) {
    const int64_t image = position / job.image_size;
    const int64_t left = std::min(end, (image + 1) * job.image_size) - position;
    const int count = int(std::min<int64_t>(kRunValues, left));
    const S* x = read_run<S>(job.x, job.x_dtype, position, 1, count, x_buffer);
    const S* f = read_run<S>(job.f, job.f_dtype, position, 1, count, f_buffer);
    const S* y = job.y ? read_run<S>(job.y, job.y_dtype, position, 1, count, y_buffer) : nullptr;
    step_run<S>(job, job.coefficients.data() + 5 * image, x, f, y, count, out);
    write_run<S>(out, count, 1.0, 0.0, job.result, job.x_dtype, position, 1, job.stream);
    position += count;
  }
  finish_streams();
}
