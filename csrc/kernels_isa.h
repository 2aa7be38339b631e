// All kernels of one instruction set. Included once by each kernels_*.cpp, inside its own namespace
// and after it has chosen the target, so that no code is shared between sets by accident.

// clang-format off: each of these uses the ones before it
#include "scalar.h"
#include "simd.h"
#include "fft.h"
#include "window_spectrum.h"
#include "fft_features_cpu.h"
#include "tiles_cpu.h"
#include "matrix.h"
#include "attention_cpu.h"
#include "attention_gradient_cpu.h"
#include "fft_bands_cpu.h"
#include "steps_cpu.h"
#include "filter_cpu.h"
// clang-format on

template <typename S>
constexpr Kernels make_kernels(const char* name) {
  return {name,
          kLanes,
          features_forward<S>,
          features_backward<S>,
          features_gather<S>,
          bands_forward<S>,
          stitch_rows<S>,
          extract_rows<S>,
          attention_forward<S>,
          attention_backward<S>,
          step_values<S>,
          raster_paths<S>,
          filter_tiles<S>};
}
