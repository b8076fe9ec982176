// Vectors of the machine, as the extensions of GCC and Clang offer them, and the functions of a network on them.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace fastegnn {

using Int = int64_t;

// Of a product, so many rows and vectors of columns are kept in registers.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kTileRows = 6, kTileColumns = 4;
#elif defined(__AVX__)
constexpr int kBytes = 32, kTileRows = 6, kTileColumns = 2;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kTileRows = 6, kTileColumns = 4;
#else
constexpr int kBytes = 16, kTileRows = 6, kTileColumns = 2;
#endif

template <class T>
struct Simd;

template <>
struct Simd<float> {
  typedef float Vector __attribute__((vector_size(kBytes)));
  typedef float Unaligned __attribute__((vector_size(kBytes), aligned(4), may_alias));
  typedef int32_t Bits __attribute__((vector_size(kBytes)));
  typedef float Four __attribute__((vector_size(16)));
  typedef float UnalignedFour __attribute__((vector_size(16), aligned(4), may_alias));
};

template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(kBytes)));
  typedef double Unaligned __attribute__((vector_size(kBytes), aligned(8), may_alias));
  typedef int64_t Bits __attribute__((vector_size(kBytes)));
  typedef double Four __attribute__((vector_size(32)));
  typedef double UnalignedFour __attribute__((vector_size(32), aligned(8), may_alias));
};

template <class T>
using V = typename Simd<T>::Vector;
template <class T>
using V4 = typename Simd<T>::Four;

template <class T>
constexpr Int kWidth = kBytes / Int(sizeof(T));

template <class T>
constexpr Int padded(Int size) {
  return (size + kWidth<T> - 1) / kWidth<T> * kWidth<T>;
}

template <class T>
inline V<T> load(const T* from) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(from);
}

template <class T>
inline void store(T* to, V<T> value) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(to) = value;
}

template <class T>
inline V4<T> load4(const T* from) {
  return *reinterpret_cast<const typename Simd<T>::UnalignedFour*>(from);
}

template <class T>
inline void store4(T* to, V4<T> value) {
  *reinterpret_cast<typename Simd<T>::UnalignedFour*>(to) = value;
}

template <class T>
inline V<T> all(T value) {
  return V<T>{} + value;
}

template <class T>
inline T sum(V<T> value) {
  T part[kWidth<T>];
  store(part, value);
  for (Int half = kWidth<T> / 2; half > 0; half /= 2)
    for (Int k = 0; k < half; ++k) part[k] += part[k + half];
  return part[0];
}

#if defined(__AVX512F__)
template <>
inline float sum<float>(V<float> value) {
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(value));
}
template <>
inline double sum<double>(V<double> value) {
  return _mm512_reduce_add_pd(reinterpret_cast<__m512d>(value));
}
#endif

template <class T>
inline T sum4(V4<T> value) {
  return (value[0] + value[1]) + (value[2] + value[3]);
}

// 2^f for |f| <= 1/2 with a relative error of 1e-7.
inline V<float> power_of_two(V<float> f) {
  V<float> p = f * 1.32764714e-3f + 9.67554133e-3f;
  p = p * f + 5.55071328e-2f;
  p = p * f + 2.40221197e-1f;
  p = p * f + 6.93146967e-1f;
  return p * f + 1.00000007f;
}

// exp(x) = 2^n 2^f, n the nearest integer to x / ln 2, which a large constant leaves in the last bits of a sum. In double
// precision a polynomial of degree 13 has a relative error of 4e-16. NaN stays NaN.
inline V<float> exponential(V<float> x) {
  x = x > 88.0f ? all(88.0f) : x;
  x = x < -87.0f ? all(-87.0f) : x;
  const V<float> shifted = x * 1.44269504f + 12582912.0f;
  const V<float> f = x * 1.44269504f - (shifted - 12582912.0f);
  const V<float> p = power_of_two(f);
  typedef Simd<float>::Bits Bits;
  return reinterpret_cast<V<float>>(reinterpret_cast<Bits>(p) + (reinterpret_cast<Bits>(shifted) << 23));
}

inline V<double> exponential(V<double> x) {
  x = x > 709.0 ? all(709.0) : x;
  x = x < -708.0 ? all(-708.0) : x;
  const V<double> shifted = x * 1.4426950408889634 + 6755399441055744.0;
  const V<double> n = shifted - 6755399441055744.0;
  const V<double> r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  V<double> p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  typedef Simd<double>::Bits Bits;
  return reinterpret_cast<V<double>>(reinterpret_cast<Bits>(p) + (reinterpret_cast<Bits>(shifted) << 52));
}

template <class T>
inline V<T> reciprocal(V<T> x) {
  return T(1) / x;
}

#if defined(__AVX512F__)
// An estimate of 14 bits and one step of Newton's method: half the time of a division.
template <>
inline V<float> reciprocal<float>(V<float> x) {
  const V<float> y = reinterpret_cast<V<float>>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x)));
  return y + y * (1.0f - x * y);
}
#endif

template <class T>
inline V<T> sigmoid(V<T> x) {
  return reciprocal<T>(exponential(-x) + T(1));
}

#if defined(__AVX512F__)
// As above, with instructions that round, and that multiply by a power of two whatever it is. Of -x / ln 2 only what
// could overflow is cut off, and so that NaN stays NaN.
template <>
inline V<float> sigmoid<float>(V<float> x) {
  const __m512 y = _mm512_min_ps(_mm512_set1_ps(126.0f), reinterpret_cast<__m512>(x * -1.44269504f));
  const __m512 n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const V<float> f = reinterpret_cast<V<float>>(_mm512_sub_ps(y, n));
  const __m512 power = _mm512_scalef_ps(reinterpret_cast<__m512>(power_of_two(f)), n);
  return reciprocal<float>(reinterpret_cast<V<float>>(power) + 1.0f);
}
#endif

// Of `count` values, a multiple of the width.
template <class T>
inline void silu(const T* from, T* to, Int count) {
  for (Int k = 0; k < count; k += kWidth<T>) {
    const V<T> x = load(from + k);
    store(to + k, x * sigmoid<T>(x));
  }
}

// With its slope.
template <class T>
inline void silu(const T* from, T* to, T* slope, Int count) {
  for (Int k = 0; k < count; k += kWidth<T>) {
    const V<T> x = load(from + k), s = sigmoid<T>(x);
    store(to + k, x * s);
    store(slope + k, s * (x * (T(1) - s) + T(1)));
  }
}

template <class T>
inline T dot(const T* a, const T* b, Int count) {
  V<T> total = {};
  for (Int k = 0; k < count; k += kWidth<T>) total += load(a + k) * load(b + k);
  return sum<T>(total);
}

template <class T>
inline void add(T factor, const T* from, T* to, Int count) {
  for (Int k = 0; k < count; k += kWidth<T>) store(to + k, load(to + k) + factor * load(from + k));
}

template <class T>
inline void multiply(const T* from, T* to, Int count) {
  for (Int k = 0; k < count; k += kWidth<T>) store(to + k, load(to + k) * load(from + k));
}

}  // namespace fastegnn
