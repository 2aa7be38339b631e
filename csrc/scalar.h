// Conversions of single stored values; the vector versions are in simd.h.
// Included inside the namespace of one instruction set, before simd.h.

inline float to_float(float value) { return value; }
inline float to_float(uint8_t value) { return value; }
inline float to_float(uint16_t value) { return value; }
inline double to_float(double value) { return value; }

inline float to_float(Bfloat16 value) {
  const uint32_t wide = uint32_t(value.raw) << 16;
  float result;
  std::memcpy(&result, &wide, sizeof(result));
  return result;
}

inline float to_float(Float16 value) {
  _Float16 half;
  std::memcpy(&half, &value, sizeof(half));
  return float(half);
}

template <typename T, typename S>
inline T from_float(S value) {
  if constexpr (std::is_same_v<T, Float16>) {
    const _Float16 half = _Float16(value);
    T result;
    std::memcpy(&result, &half, sizeof(result));
    return result;
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    const float single = float(value);
    uint32_t raw;
    std::memcpy(&raw, &single, sizeof(raw));
    if (single != single) return T{0x7fc0};
    return T{uint16_t((raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16)};
  } else if constexpr (std::is_integral_v<T>) {
    const S limit = std::numeric_limits<T>::max();
    const S magic = sizeof(S) == 4 ? S(12582912.0) : S(6755399441055744.0);
    value = value > S(0) ? value : S(0);
    value = value < limit ? value : limit;
    return T(int32_t((value + magic) - magic));
  } else {
    return T(value);
  }
}

inline int64_t item_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::kUint8:
      return 1;
    case Dtype::kFloat32:
      return 4;
    case Dtype::kFloat64:
      return 8;
    default:
      return 2;
  }
}

// Calls body(T{}) with the stored type of `dtype`.
template <typename Body>
inline void with_type(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::kUint8:
      return body(uint8_t{});
    case Dtype::kUint16:
      return body(uint16_t{});
    case Dtype::kBfloat16:
      return body(Bfloat16{});
    case Dtype::kFloat16:
      return body(Float16{});
    case Dtype::kFloat32:
      return body(float{});
    case Dtype::kFloat64:
      return body(double{});
  }
}

// The same for the floating types that are computed in S.
template <typename S, typename Body>
inline void with_float_type(Dtype dtype, Body&& body) {
  if constexpr (std::is_same_v<S, double>) {
    return body(double{});
  } else {
    switch (dtype) {
      case Dtype::kBfloat16:
        return body(Bfloat16{});
      case Dtype::kFloat16:
        return body(Float16{});
      default:
        return body(float{});
    }
  }
}

// The same for the types that are read as S: float64 as double, everything else as float.
template <typename S, typename Body>
inline void with_stored_type(Dtype dtype, Body&& body) {
  if constexpr (std::is_same_v<S, double>) {
    return body(double{});
  } else {
    if (dtype == Dtype::kUint8) return body(uint8_t{});
    if (dtype == Dtype::kUint16) return body(uint16_t{});
    return with_float_type<S>(dtype, body);
  }
}
