// Kernels for any processor, with the vectors of its base instruction set; also those in double.

#include "kernels_std.h"

#define FREQDIFF_LANES 4

namespace freqdiff {
namespace generic {

#include "kernels_isa.h"

}  // namespace generic

const Kernels generic_kernels = generic::make_kernels<float>("generic");
const Kernels generic_double_kernels = generic::make_kernels<double>("generic");

}  // namespace freqdiff
