// Warp operations, asynchronous copies and tensor cores of the emulation, with
// the layouts of lanes and registers that the PTX manual gives.

#pragma once

#include "emulation.h"

namespace emulation {

template <typename T>
struct Shuffle {
  T value;
  int source;
  T result;
};

template <typename T>
T shuffle(uint32_t mask, T value, int source, const char* what, int line) {
  Shuffle<T> mine{value, source, value};
  meet(
      mask, &mine,
      [](uint32_t mask, void** lanes) {
        for (int lane = 0; lane < 32; ++lane) {
          if (!(mask >> lane & 1)) continue;
          auto& self = *static_cast<Shuffle<T>*>(lanes[lane]);
          if (!(mask >> self.source & 1)) fail("shuffles from a lane that is not in the mask");
          self.result = static_cast<Shuffle<T>*>(lanes[self.source])->value;
        }
      },
      what, line);
  return mine.result;
}

struct Vote {
  bool predicate;
  uint32_t result;
};

inline uint32_t ballot(uint32_t mask, bool predicate, const char* what, int line) {
  Vote mine{predicate, 0};
  meet(
      mask, &mine,
      [](uint32_t mask, void** lanes) {
        uint32_t votes = 0;
        for (int lane = 0; lane < 32; ++lane) {
          if (mask >> lane & 1)
            votes |= uint32_t(static_cast<Vote*>(lanes[lane])->predicate) << lane;
        }
        for (int lane = 0; lane < 32; ++lane) {
          if (mask >> lane & 1) static_cast<Vote*>(lanes[lane])->result = votes;
        }
      },
      what, line);
  return mine.result;
}

inline void copy_now(const Copy& copy) {
  if (copy.source) {
    std::memcpy(copy.target, copy.source, size_t(copy.bytes));
  } else {
    std::memset(copy.target, 0, size_t(copy.bytes));
  }
}

inline void copy_later(void* target, const void* source, int bytes) {
  if (reinterpret_cast<uintptr_t>(target) % size_t(bytes) ||
      reinterpret_cast<uintptr_t>(source) % size_t(bytes)) {
    fail("misaligned asynchronous copy");
  }
  Fiber& fiber = *state.current;
  const Copy copy{target, source, bytes, fiber.group};
  if (state.backwards) return copy_now(copy);
  fiber.copies.push_back(copy);
}

inline void commit_copies() { ++state.current->group; }

// Until at most `pending` of the committed groups are under way.
inline void finish_copies(int pending) {
  Fiber& fiber = *state.current;
  std::vector<Copy> left;
  for (const Copy& copy : fiber.copies) {
    if (copy.group >= fiber.group - pending) {
      left.push_back(copy);
    } else {
      copy_now(copy);
    }
  }
  fiber.copies.swap(left);
}

inline float wide(__nv_bfloat16 value) { return __bfloat162float(value); }
inline float wide(__half value) { return __half2float(value); }

template <typename T>
float element(const uint32_t* registers, int index) {
  T value;
  std::memcpy(&value, reinterpret_cast<const char*>(registers) + 2 * index, 2);
  return wide(value);
}

struct Product {
  float* c;
  const uint32_t* a;
  const uint32_t* b;
};

// c += a b of mma.sync.m16n8k16: a is 16 x 16, b 16 x 8. Like the hardware it adds to c once.
template <typename T>
void multiply(float* c, const uint32_t* a, const uint32_t* b, int line) {
  Product mine{c, a, b};
  meet(
      ~0u, &mine,
      [](uint32_t, void** lanes) {
        float rows[16][16], columns[16][8], sums[16][8] = {};
        for (int lane = 0; lane < 32; ++lane) {
          const Product& product = *static_cast<Product*>(lanes[lane]);
          const int group = lane / 4, pair = lane % 4 * 2;
          for (int i = 0; i < 8; ++i) {
            rows[group + i / 2 % 2 * 8][pair + i % 2 + i / 4 * 8] = element<T>(product.a, i);
          }
          for (int i = 0; i < 4; ++i) {
            columns[pair + i % 2 + i / 2 * 8][group] = element<T>(product.b, i);
          }
        }
        for (int m = 0; m < 16; ++m) {
          for (int k = 0; k < 16; ++k) {
            for (int n = 0; n < 8; ++n) sums[m][n] += rows[m][k] * columns[k][n];
          }
        }
        for (int lane = 0; lane < 32; ++lane) {
          const int group = lane / 4, pair = lane % 4 * 2;
          for (int i = 0; i < 4; ++i) {
            static_cast<Product*>(lanes[lane])->c[i] += sums[group + i / 2 * 8][pair + i % 2];
          }
        }
      },
      "mma", line);
}

struct Matrices {
  uint32_t* registers;
  const void* row;
};

// ldmatrix: `count` 8 x 8 matrices of 16-bit elements; lane 8 i + j brings the
// address of row j of matrix i.
template <int count, bool transposed>
void load_matrices(uint32_t* registers, const void* row, int line) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fail("misaligned row of ldmatrix");
  Matrices mine{registers, row};
  meet(
      ~0u, &mine,
      [](uint32_t, void** lanes) {
        for (int matrix = 0; matrix < count; ++matrix) {
          uint16_t values[8][8];
          for (int i = 0; i < 8; ++i) {
            std::memcpy(values[i], static_cast<Matrices*>(lanes[matrix * 8 + i])->row, 16);
          }
          for (int lane = 0; lane < 32; ++lane) {
            const int group = lane / 4, pair = lane % 4 * 2;
            const uint32_t low = transposed ? values[pair][group] : values[group][pair];
            const uint32_t high = transposed ? values[pair + 1][group] : values[group][pair + 1];
            static_cast<Matrices*>(lanes[lane])->registers[matrix] = low | high << 16;
          }
        }
      },
      "ldmatrix", line);
}

// Where a lane shuffles from: itself beyond the ends of its segment of `width`
// lanes.
inline int segment(int width) { return lane() / width * width; }

}  // namespace emulation

inline void __syncwarp(uint32_t mask = ~0u, int line = __builtin_LINE()) {
  emulation::meet(mask, nullptr, [](uint32_t, void**) {}, "__syncwarp()", line);
}

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  const int from = emulation::segment(width) + (source & (width - 1));
  return emulation::shuffle(mask, value, from, "__shfl_sync()", line);
}

template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
  const int lane = emulation::lane(), from = lane ^ bits;
  const bool inside = from < emulation::segment(width) + width;
  return emulation::shuffle(mask, value, inside ? from : lane, "__shfl_xor_sync()", line);
}

template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32,
                   int line = __builtin_LINE()) {
  const int lane = emulation::lane(), from = lane + int(delta);
  const bool inside = from < emulation::segment(width) + width;
  return emulation::shuffle(mask, value, inside ? from : lane, "__shfl_down_sync()", line);
}

template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32,
                 int line = __builtin_LINE()) {
  const int lane = emulation::lane(), from = lane - int(delta);
  const bool inside = from >= emulation::segment(width);
  return emulation::shuffle(mask, value, inside ? from : lane, "__shfl_up_sync()", line);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, int line = __builtin_LINE()) {
  return emulation::ballot(mask, predicate != 0, "__ballot_sync()", line);
}
inline int __any_sync(uint32_t mask, int predicate, int line = __builtin_LINE()) {
  return emulation::ballot(mask, predicate != 0, "__any_sync()", line) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, int line = __builtin_LINE()) {
  return emulation::ballot(mask, predicate == 0, "__all_sync()", line) == 0;
}
