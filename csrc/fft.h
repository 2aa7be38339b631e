// Complex DFTs of 8, 16, 32 and 64 points, forward (exponent -i), one transform per vector lane.
// Included inside the namespace of one instruction set, after simd.h.

template <typename S>
struct Complex {
  Vec<S> re, im;
};

// cos(2 pi k / 64) for k = 0..16; everything else follows by symmetry.
constexpr double kQuarterCosine[17] = {
    1.0,
    0.99518472667219688624,
    0.98078528040323044913,
    0.95694033573220886494,
    0.92387953251128675613,
    0.88192126434835502971,
    0.83146961230254523708,
    0.77301045336273696081,
    0.70710678118654752440,
    0.63439328416364549822,
    0.55557023301960222474,
    0.47139673682599764856,
    0.38268343236508977173,
    0.29028467725446236764,
    0.19509032201612826785,
    0.09801714032956060199,
    0.0,
};

constexpr double cosine64(int k) {
  k &= 63;
  if (k > 32) k = 64 - k;
  return k <= 16 ? kQuarterCosine[k] : -kQuarterCosine[32 - k];
}

template <int Begin, int End, typename Body>
FREQDIFF_INLINE void static_for(Body&& body) {
  if constexpr (Begin < End) {
    body(std::integral_constant<int, Begin>{});
    static_for<Begin + 1, End>(body);
  }
}

// a *= exp(-2 pi i K / N)
template <int K, int N, typename S>
FREQDIFF_INLINE void twiddle(Complex<S>& a) {
  constexpr S c = S(cosine64(K * (64 / N))), s = S(cosine64(K * (64 / N) - 16));
  if constexpr (K % N != 0) {
    const Vec<S> re = a.re * c + a.im * s;
    a.im = a.im * c - a.re * s;
    a.re = re;
  }
}

// a, b = a + w b, a - w b with w = exp(-2 pi i K / N). With the larger part of w taken out, each of
// the six operations is one multiplication fused with one addition.
template <int K, int N, typename S>
FREQDIFF_INLINE void butterfly(Complex<S>& a, Complex<S>& b) {
  constexpr double c = cosine64(K * (64 / N)), s = cosine64(K * (64 / N) - 16);
  static_assert(0 <= K && 2 * K < N);
  constexpr bool more_real = c * c >= s * s;
  constexpr S scale = S(more_real ? c : s), ratio = S(more_real ? s / c : c / s);
  Complex<S> turned;
  if constexpr (K == 0) {
    turned = b;
  } else if constexpr (4 * K == N) {
    turned = {b.im, -b.re};
  } else if constexpr (more_real) {
    turned = {b.re + b.im * ratio, b.im - b.re * ratio};
  } else {
    turned = {b.im + b.re * ratio, b.im * ratio - b.re};
  }
  if constexpr (4 * K % N == 0) {
    b = {a.re - turned.re, a.im - turned.im};
    a = {a.re + turned.re, a.im + turned.im};
  } else {
    b = {a.re - turned.re * scale, a.im - turned.im * scale};
    a = {a.re + turned.re * scale, a.im + turned.im * scale};
  }
}

template <typename S>
FREQDIFF_INLINE void dft4(Complex<S>& a0, Complex<S>& a1, Complex<S>& a2, Complex<S>& a3) {
  const Complex<S> even{a0.re + a2.re, a0.im + a2.im},
      even_difference{a0.re - a2.re, a0.im - a2.im};
  const Complex<S> odd{a1.re + a3.re, a1.im + a3.im}, odd_difference{a1.re - a3.re, a1.im - a3.im};
  a0 = {even.re + odd.re, even.im + odd.im};
  a2 = {even.re - odd.re, even.im - odd.im};
  a1 = {even_difference.re + odd_difference.im, even_difference.im - odd_difference.re};
  a3 = {even_difference.re - odd_difference.im, even_difference.im + odd_difference.re};
}

// Of the points a[j] exp(-2 pi i J j / N), in place.
template <int J, int N, typename S>
FREQDIFF_INLINE void twiddled_dft4(Complex<S>* a) {
  butterfly<2 * J, N, S>(a[0], a[2]);
  butterfly<2 * J, N, S>(a[1], a[3]);
  butterfly<J, N, S>(a[0], a[1]);
  butterfly<J + N / 4, N, S>(a[2], a[3]);
  const Complex<S> second = a[1];
  a[1] = a[2];
  a[2] = second;
}

// In place, results in natural order.
template <int N, typename S>
FREQDIFF_INLINE void small_dft(Complex<S>* a) {
  if constexpr (N == 4) {
    dft4<S>(a[0], a[1], a[2], a[3]);
  } else {
    static_assert(N == 8);
    dft4<S>(a[0], a[2], a[4], a[6]);
    dft4<S>(a[1], a[3], a[5], a[7]);
    Complex<S> result[8];
    static_for<0, 4>([&](auto k) __attribute__((always_inline)) {
      butterfly<k, 8, S>(a[2 * k], a[2 * k + 1]);
      result[k] = a[2 * k];
      result[k + 4] = a[2 * k + 1];
    });
    static_for<0, 8>([&](auto k) __attribute__((always_inline)) { a[k] = result[k]; });
  }
}

// read(i) gives point i, write(k, value) takes coefficient k: N = R * M, R transforms of M points
// after M transforms of R. Indices arrive as compile-time constants.
template <int N, typename S, typename Read, typename Write>
FREQDIFF_INLINE void fft(Read&& read, Write&& write) {
  constexpr int R = N == 64 ? 8 : N == 8 ? 1 : 4, M = N / R;
  Complex<S> middle[N];
  if constexpr (R == 1) {
    static_for<0, N>([&](auto i) __attribute__((always_inline)) { middle[i] = read(i); });
  } else {
    static_for<0, M>([&](auto j) __attribute__((always_inline)) {
      Complex<S> a[R];
      static_for<0, R>([&](auto r) __attribute__((always_inline)) {
        a[r] = read(std::integral_constant<int, j + M * r>{});
      });
      small_dft<R, S>(a);
      static_for<0, R>([&](auto k) __attribute__((always_inline)) {
        if constexpr (M != 4) twiddle<j * k, N, S>(a[k]);
        middle[k * M + j] = a[k];
      });
    });
  }
  static_for<0, R>([&](auto k) __attribute__((always_inline)) {
    Complex<S>* a = middle + k * M;
    if constexpr (M == 4) {
      twiddled_dft4<k, N, S>(a);
    } else {
      small_dft<M, S>(a);
    }
    static_for<0, M>([&](auto m) __attribute__((always_inline)) {
      write(std::integral_constant<int, k + R * m>{}, a[m]);
    });
  });
}
