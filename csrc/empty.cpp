#include <mutex>
#include <optional>
#include <utility>

#include "check.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace freqdiff {
namespace {

// Tells the system about the whole huge pages in there. Only advice: where it is refused, nothing
// changes.
void advise([[maybe_unused]] const Tensor& memory, [[maybe_unused]] int advice) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = 2 << 20;
  const auto data = reinterpret_cast<uintptr_t>(memory.data_ptr());
  const uintptr_t begin = (data + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (data + uintptr_t(memory.numel())) & ~(kHugePage - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
#endif
}

#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_FREE)
constexpr int kUseHugePages = MADV_HUGEPAGE, kMayBeTakenAway = MADV_FREE;
#else
constexpr int kUseHugePages = 0, kMayBeTakenAway = 0;
#endif

// The memory of the last large result that nobody holds any more, kept for the next one.
class Spare {
 public:
  // Memory for so many bytes, at most a quarter larger; or nothing.
  std::optional<Tensor> take(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!memory_ || memory_->numel() < bytes || memory_->numel() > bytes + bytes / 4) return {};
    return std::exchange(memory_, std::nullopt);
  }

  // What was kept before goes, outside the lock.
  void keep(std::optional<Tensor> memory) {
    if (memory) advise(*memory, kMayBeTakenAway);
    const std::lock_guard<std::mutex> lock(mutex_);
    std::swap(memory_, memory);
  }

 private:
  std::mutex mutex_;
  std::optional<Tensor> memory_;
};

Spare& spare() {
  static auto* const instance = new Spare;  // results may outlive what is static
  return *instance;
}

int32_t code_of(ScalarType type) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
}

}  // namespace

Tensor empty_on(int32_t device_type, int32_t device, const std::vector<int64_t>& shape,
                const std::vector<int64_t>& strides, ScalarType type) {
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.data(),
                                                         strides.data(), code_of(type), device_type,
                                                         device, &handle));
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
  constexpr int64_t kLarge = 8 << 20, kTooLargeToKeep = 256 << 20;
  const int32_t cpu = aoti_torch_device_type_cpu();
  int64_t bytes = int64_t(aoti_torch_dtype_element_size(code_of(type)));
  for (const int64_t size : shape) bytes *= size;
  if (bytes < kLarge) return empty_on(cpu, 0, shape, strides, type);

  std::optional<Tensor> memory = spare().take(bytes);
  if (!memory) {
    memory = empty_on(cpu, 0, {bytes}, {1}, ScalarType::Byte);
    advise(*memory, kUseHugePages);
  }
  const auto give_back = [memory = *memory](void*) {
    if (memory.numel() < kTooLargeToKeep) spare().keep(memory);
  };
  return torch::stable::from_blob(memory->mutable_data_ptr(), shape, strides, memory->device(),
                                  type, give_back);
}

Tensor empty_cpu(const std::vector<int64_t>& shape, ScalarType type) {
  return empty_cpu(shape, contiguous_strides(shape), type);
}

void release_memory() { spare().keep(std::nullopt); }

}  // namespace freqdiff
