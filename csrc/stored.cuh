// Stored types on the device: conversion to and from what is computed (float, or double where
// something is float64), and the choice of the type at run time. The choice is the same for all
// threads; kernels make it once for several values, so that one kernel serves every dtype.

#pragma once

#include "kernels.h"
#include "launch.h"

namespace freqdiff {

template <typename T>
__device__ __forceinline__ T* as(void* data) {
  return static_cast<T*>(data);
}
template <typename T>
__device__ __forceinline__ const T* as(const void* data) {
  return static_cast<const T*>(data);
}

template <typename To, typename From>
__device__ __forceinline__ To same_bits(const From& value) {
  static_assert(sizeof(To) == sizeof(From), "the bits of one type in another of its size");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(uint8_t value) { return float(value); }
__device__ __forceinline__ float widen(uint16_t value) { return float(value); }
__device__ __forceinline__ float widen(Bfloat16 value) {
  return __uint_as_float(uint32_t(value.raw) << 16);
}
__device__ __forceinline__ float widen(Float16 value) {
  return __half2float(same_bits<__half>(value));
}

// Rounded to the nearest, half to even; integers are clamped, NaN gives 0.
template <typename T>
struct Narrow;
template <>
struct Narrow<float> {
  template <typename S>
  static __device__ __forceinline__ float of(S value) {
    return float(value);
  }
};
template <>
struct Narrow<double> {
  template <typename S>
  static __device__ __forceinline__ double of(S value) {
    return double(value);
  }
};
template <>
struct Narrow<Bfloat16> {
  template <typename S>
  static __device__ __forceinline__ Bfloat16 of(S value) {
    return same_bits<Bfloat16>(__float2bfloat16_rn(float(value)));
  }
};
template <>
struct Narrow<Float16> {
  template <typename S>
  static __device__ __forceinline__ Float16 of(S value) {
    return same_bits<Float16>(__float2half_rn(float(value)));
  }
};
// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
template <typename T, int kLargest>
struct NarrowInteger {
  static __device__ __forceinline__ T of(float value) {
    const float clamped = fminf(fmaxf(value, 0.0f), float(kLargest));
    return T(same_bits<uint32_t>(clamped + 12582912.0f));
  }
  static __device__ __forceinline__ T of(double value) {
    return T(int(rint(fmin(fmax(value, 0.0), double(kLargest)))));
  }
};
template <>
struct Narrow<uint8_t> : NarrowInteger<uint8_t, 255> {};
template <>
struct Narrow<uint16_t> : NarrowInteger<uint16_t, 65535> {};

template <typename T, typename S>
__device__ __forceinline__ T narrow(S value) {
  return Narrow<T>::of(value);
}

// Calls body(T{}) with the floating type of `dtype`.
template <typename Body>
__device__ __forceinline__ void with_float_type(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::kBfloat16:
      return body(Bfloat16{});
    case Dtype::kFloat16:
      return body(Float16{});
    case Dtype::kFloat64:
      return body(double{});
    default:
      return body(float{});
  }
}

// The same with all stored types.
template <typename Body>
__device__ __forceinline__ void with_stored_type(Dtype dtype, Body&& body) {
  if (dtype == Dtype::kUint8) return body(uint8_t{});
  if (dtype == Dtype::kUint16) return body(uint16_t{});
  with_float_type(dtype, body);
}

// The same with the types that are computed in S: float64 in double, everything else in float.
template <typename S, typename Body>
__device__ __forceinline__ void with_type_of(Dtype dtype, Body&& body) {
  if constexpr (sizeof(S) == sizeof(double)) {
    body(double{});
  } else if (dtype == Dtype::kUint8) {
    body(uint8_t{});
  } else if (dtype == Dtype::kUint16) {
    body(uint16_t{});
  } else if (dtype == Dtype::kBfloat16) {
    body(Bfloat16{});
  } else if (dtype == Dtype::kFloat16) {
    body(Float16{});
  } else {
    body(float{});
  }
}

inline int bytes_of(Dtype dtype) {
  return dtype == Dtype::kUint8     ? 1
         : dtype == Dtype::kFloat64 ? 8
         : dtype == Dtype::kFloat32 ? 4
                                    : 2;
}

}  // namespace freqdiff
