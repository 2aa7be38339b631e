#include "check.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace freqdiff {
namespace {

void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  // Only advice: where it is refused, nothing changes.
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace

Tensor empty_on(int32_t device_type, int32_t device, const std::vector<int64_t>& shape,
                const std::vector<int64_t>& strides, ScalarType type) {
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      int64_t(shape.size()), shape.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)), device_type, device,
      &handle));
  return Tensor(handle);
}

std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= shape[i] > 0 ? shape[i] : 1;
  }
  return strides;
}

Tensor empty_cpu(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                 ScalarType type) {
  Tensor tensor = empty_on(aoti_torch_device_type_cpu(), 0, shape, strides, type);
  const size_t bytes = size_t(tensor.numel()) * tensor.element_size();
  if (bytes >= (8 << 20)) ask_for_huge_pages(tensor.mutable_data_ptr(), bytes);
  return tensor;
}

Tensor empty_cpu(const std::vector<int64_t>& shape, ScalarType type) {
  return empty_cpu(shape, contiguous_strides(shape), type);
}

}  // namespace freqdiff
