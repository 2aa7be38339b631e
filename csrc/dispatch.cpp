#include <atomic>
#include <cstring>

#include "kernels.h"

namespace freqdiff {
namespace {

std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> sets{&generic_kernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    sets.push_back(&avx2_kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      sets.push_back(&avx512_kernels);
    }
  }
#endif
  return sets;
}

std::atomic<const Kernels*>& active() {
  static std::atomic<const Kernels*> kernels{runnable().back()};
  return kernels;
}

}  // namespace

const Kernels& kernels(bool float64) { return float64 ? generic_double_kernels : *active().load(); }

std::vector<const char*> levels() {
  std::vector<const char*> names;
  for (const Kernels* set : runnable()) names.push_back(set->name);
  return names;
}

bool set_level(const char* name) {
  for (const Kernels* set : runnable()) {
    if (std::strcmp(set->name, name) == 0) {
      active().store(set);
      return true;
    }
  }
  return false;
}

}  // namespace freqdiff
