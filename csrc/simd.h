// Vectors of kLanes values, on the vector extensions of GCC and Clang.
//
// Included inside the namespace of one instruction set, after FREQDIFF_LANES is defined and the
// target is chosen; the including file has already included the standard headers and immintrin.h.
// No include guard on purpose: every instruction set compiles its own copy.

constexpr int kLanes = FREQDIFF_LANES;

#define FREQDIFF_INLINE inline __attribute__((always_inline))

template <typename S>
struct VecOf {
  typedef S type __attribute__((vector_size(kLanes * sizeof(S))));
};
template <typename S>
using Vec = typename VecOf<S>::type;

template <typename S>
FREQDIFF_INLINE Vec<S> load(const S* source) {
  Vec<S> value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

template <typename S>
FREQDIFF_INLINE void store(S* target, const Vec<S>& value) {
  std::memcpy(target, &value, sizeof(value));
}

// The same vector, held in a register: GCC would read memory again for each operation that uses it.
template <typename S>
FREQDIFF_INLINE Vec<S> in_register(const Vec<S>& memory) {
  Vec<S> value = memory;
#if defined(FREQDIFF_AVX512)
  __asm__("" : "+v"(value));
#elif defined(FREQDIFF_AVX2)
  __asm__("" : "+x"(value));
#endif
  return value;
}

template <typename To, typename From>
FREQDIFF_INLINE Vec<To> convert(const Vec<From>& value) {
  return __builtin_convertvector(value, Vec<To>);
}

template <typename To, typename From>
FREQDIFF_INLINE Vec<To> bits(const Vec<From>& value) {
  return reinterpret_cast<Vec<To>>(value);
}

// A store that does not read the line first. `target` is aligned to the vector.
FREQDIFF_INLINE void stream(float* target, const Vec<float>& value) {
#if defined(FREQDIFF_AVX512)
  _mm512_stream_ps(target, reinterpret_cast<__m512>(value));
#elif defined(FREQDIFF_AVX2)
  _mm256_stream_ps(target, reinterpret_cast<__m256>(value));
#else
  store(target, value);
#endif
}

FREQDIFF_INLINE void finish_streams() {
#if defined(FREQDIFF_AVX512) || defined(FREQDIFF_AVX2)
  _mm_sfence();
#endif
}

// Conversions of kLanes stored values to and from float.

FREQDIFF_INLINE Vec<float> load_float(const float* source) { return load(source); }

template <typename T>
FREQDIFF_INLINE Vec<float> load_integer(const T* source) {
  return convert<float, int32_t>(convert<int32_t, T>(load(source)));
}
FREQDIFF_INLINE Vec<float> load_float(const uint8_t* source) { return load_integer(source); }
FREQDIFF_INLINE Vec<float> load_float(const uint16_t* source) { return load_integer(source); }

FREQDIFF_INLINE Vec<float> load_float(const Bfloat16* source) {
  const Vec<uint32_t> wide =
      convert<uint32_t, uint16_t>(load(reinterpret_cast<const uint16_t*>(source)));
  return bits<float, uint32_t>(wide << 16);
}

FREQDIFF_INLINE Vec<float> load_float(const Float16* source) {
#if defined(FREQDIFF_AVX512)
  __m256i packed;
  std::memcpy(&packed, source, sizeof(packed));
  return reinterpret_cast<Vec<float>>(_mm512_cvtph_ps(packed));
#elif defined(FREQDIFF_AVX2)
  __m128i packed;
  std::memcpy(&packed, source, sizeof(packed));
  return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(packed));
#else
  Vec<float> value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = to_float(source[lane]);
  return value;
#endif
}

FREQDIFF_INLINE void store_float(float* target, const Vec<float>& value) { store(target, value); }

// Adding and subtracting 1.5 * 2^23 rounds half to even what is already clamped below 2^22.
template <typename T>
FREQDIFF_INLINE void store_integer(T* target, Vec<float> value) {
  const float limit = std::numeric_limits<T>::max();
  value = value > 0.0f ? value : Vec<float>{};  // also makes NaN 0
  value = value < limit ? value : Vec<float>{} + limit;
  value = (value + 12582912.0f) - 12582912.0f;
  store(target, convert<T, int32_t>(convert<int32_t, float>(value)));
}
FREQDIFF_INLINE void store_float(uint8_t* target, const Vec<float>& value) {
  store_integer(target, value);
}
FREQDIFF_INLINE void store_float(uint16_t* target, const Vec<float>& value) {
  store_integer(target, value);
}

FREQDIFF_INLINE void store_float(Bfloat16* target, const Vec<float>& value) {
  const Vec<uint32_t> raw = bits<uint32_t, float>(value);
  const Vec<uint32_t> rounded = (raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16;
  const Vec<uint32_t> result = value == value ? rounded : Vec<uint32_t>{} + 0x7fc0u;
  store(reinterpret_cast<uint16_t*>(target), convert<uint16_t, uint32_t>(result));
}

FREQDIFF_INLINE void store_float(Float16* target, const Vec<float>& value) {
#if defined(FREQDIFF_AVX512)
  const __m256i packed = _mm512_cvtps_ph(reinterpret_cast<__m512>(value), 0);
  std::memcpy(target, &packed, sizeof(packed));
#elif defined(FREQDIFF_AVX2)
  const __m128i packed = _mm256_cvtps_ph(reinterpret_cast<__m256>(value), 0);
  std::memcpy(target, &packed, sizeof(packed));
#else
  for (int lane = 0; lane < kLanes; ++lane) target[lane] = from_float<Float16>(value[lane]);
#endif
}

// Transpose of kLanes vectors in registers: log2(kLanes) rounds of two-input shuffles.

template <int Step, int Upper, typename S, size_t... Lane>
FREQDIFF_INLINE Vec<S> exchange(const Vec<S>& a, const Vec<S>& b, std::index_sequence<Lane...>) {
  if constexpr (Upper) {
    return __builtin_shufflevector(a, b,
                                   ((Lane & Step) ? kLanes + int(Lane) : int(Lane ^ Step))...);
  } else {
    return __builtin_shufflevector(a, b,
                                   ((Lane & Step) ? kLanes + int(Lane ^ Step) : int(Lane))...);
  }
}

template <int Step, typename S, size_t... Lane>
FREQDIFF_INLINE Vec<S> swap_lanes(const Vec<S>& a, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(a, a, int(Lane ^ Step)...);
}

template <typename S, int Step = 1>
FREQDIFF_INLINE void transpose(Vec<S>* rows) {
  constexpr std::make_index_sequence<kLanes> lanes{};
#pragma GCC unroll 16
  for (int row = 0; row < kLanes; ++row) {
    if (row & Step) continue;
    const Vec<S> a = rows[row], b = rows[row + Step];
    rows[row] = exchange<Step, 0, S>(a, b, lanes);
    rows[row + Step] = exchange<Step, 1, S>(a, b, lanes);
  }
  if constexpr (2 * Step < kLanes) transpose<S, 2 * Step>(rows);
}

// The sum or the maximum over all lanes, in every lane, always in the same order.
template <typename S, int Step = 1, typename Combine>
FREQDIFF_INLINE Vec<S> over_lanes(const Vec<S>& value, Combine&& combine) {
  if constexpr (Step == kLanes) {
    return value;
  } else {
    return over_lanes<S, 2 * Step>(
        combine(value, swap_lanes<Step, S>(value, std::make_index_sequence<kLanes>{})), combine);
  }
}

// Three planes of kLanes pixels to interleaved colours and back: every result takes its lanes from
// all three vectors with two shuffles.
template <typename Pick, size_t... Lane>
FREQDIFF_INLINE Vec<float> pick_of_three(const Vec<float>* v, Pick, std::index_sequence<Lane...>) {
  // Pick(lane) = vector * kLanes + lane within it.
  const Vec<float> two = __builtin_shufflevector(
      v[0], v[1], (Pick{}(int(Lane)) < 2 * kLanes ? Pick{}(int(Lane)) : 0)...);
  return __builtin_shufflevector(
      two, v[2], (Pick{}(int(Lane)) < 2 * kLanes ? int(Lane) : Pick{}(int(Lane)) - kLanes)...);
}

template <int Part>
struct Interleaved {
  constexpr int operator()(int lane) const {
    return (Part * kLanes + lane) % 3 * kLanes + (Part * kLanes + lane) / 3;
  }
};

template <int Colour>
struct Separated {
  constexpr int operator()(int lane) const { return 3 * lane + Colour; }
};

template <template <int> class Pick>
FREQDIFF_INLINE void rearrange_three(Vec<float>* v) {
  constexpr std::make_index_sequence<kLanes> lanes{};
  const Vec<float> a = pick_of_three(v, Pick<0>{}, lanes);
  const Vec<float> b = pick_of_three(v, Pick<1>{}, lanes);
  const Vec<float> c = pick_of_three(v, Pick<2>{}, lanes);
  v[0] = a;
  v[1] = b;
  v[2] = c;
}

// Natural logarithm of positive normal numbers, to about one unit in the last place (the polynomial
// is that of Cephes' logf). NaN and infinity come out as NaN.
FREQDIFF_INLINE Vec<float> log(const Vec<float>& x) {
  Vec<int32_t> raw = bits<int32_t, float>(x);
  // Mantissa in [sqrt(1/2), sqrt(2)), so that the result near 1 keeps its relative precision.
  raw += 0x3f800000 - 0x3f3504f3;
  const Vec<float> exponent = convert<float, int32_t>((raw >> 23) - 127);
  const Vec<float> m = bits<float, int32_t>((raw & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const Vec<float> square = m * m;
  Vec<float> y = m * 7.0376836292e-2f - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = y * m * square;
  y += exponent * -2.12194440e-4f - square * 0.5f;
  return (m + y) + (exponent * 0.693359375f + (x - x));
}

// Exponential, to about one unit in the last place (the polynomial is that of Cephes' expf): 0
// below -87.3, infinity above 88.3, NaN stays.
FREQDIFF_INLINE Vec<float> exp(const Vec<float>& x) {
  // The sum leaves the nearest integer in the lowest bits.
  const Vec<float> shifted = x * 1.44269504088896341f + 12582912.0f;
  const Vec<float> n = shifted - 12582912.0f;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const Vec<uint32_t> power = (bits<uint32_t, float>(shifted) << 23) + 0x3f800000u;
  y *= bits<float, uint32_t>(power);
  y = x < -87.3f ? Vec<float>{} : y;
  return x > 88.3f ? Vec<float>{} + std::numeric_limits<float>::infinity() : y;
}

FREQDIFF_INLINE Vec<float> inverse_sqrt(const Vec<float>& x) {
#if defined(FREQDIFF_AVX512)
  // 14 bits, then one Newton step: to about one unit in the last place.
  const Vec<float> y = reinterpret_cast<Vec<float>>(_mm512_rsqrt14_ps(reinterpret_cast<__m512>(x)));
  return y * (1.5f - 0.5f * x * y * y);
#elif defined(FREQDIFF_AVX2)
  return 1.0f / reinterpret_cast<Vec<float>>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#else
  Vec<float> y;
  for (int lane = 0; lane < kLanes; ++lane) y[lane] = 1.0f / std::sqrt(x[lane]);
  return y;
#endif
}

#if !defined(FREQDIFF_AVX512) && !defined(FREQDIFF_AVX2)

FREQDIFF_INLINE Vec<double> load_float(const double* source) { return load(source); }

FREQDIFF_INLINE void store_float(double* target, const Vec<double>& value) { store(target, value); }

FREQDIFF_INLINE Vec<double> log(const Vec<double>& x) {
  Vec<double> y;
  for (int lane = 0; lane < kLanes; ++lane) y[lane] = std::log(x[lane]);
  return y;
}

FREQDIFF_INLINE Vec<double> exp(const Vec<double>& x) {
  Vec<double> y;
  for (int lane = 0; lane < kLanes; ++lane) y[lane] = std::exp(x[lane]);
  return y;
}

FREQDIFF_INLINE Vec<double> inverse_sqrt(const Vec<double>& x) {
  Vec<double> y;
  for (int lane = 0; lane < kLanes; ++lane) y[lane] = 1.0 / std::sqrt(x[lane]);
  return y;
}

#endif
