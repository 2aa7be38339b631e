// ddim_step for the tests.

#include "entry.h"

#include "ddim_step.cuh"

using namespace freqdiff;

extern "C" {

// Sizes and strides come one after another: sizes, x, f, y, out.
const char *run_step(const void *x, int64_t x_type, const void *f, int64_t f_type, const void *y,
                     int64_t y_type, void *out, const int64_t *layout, const void *coefficients,
                     int64_t double_coefficients, int64_t clamp, int64_t *dense) {
  StepLaunch job{};
  job.x = {x, Dtype(x_type), {}};
  job.f = {f, Dtype(f_type), {}};
  job.y = {y, Dtype(y_type), {}};
  job.out = out;
  for (int i = 0; i < 4; ++i) {
    job.sizes[i] = layout[i];
    job.x.strides[i] = layout[4 + i];
    job.f.strides[i] = layout[8 + i];
    job.y.strides[i] = layout[12 + i];
    job.out_strides[i] = layout[16 + i];
  }
  job.coefficients = coefficients;
  job.double_coefficients = double_coefficients != 0;
  job.clamp = clamp != 0;
  *dense = is_dense(job, 1);
  return report(run_ddim_step(job, nullptr));
}
}
