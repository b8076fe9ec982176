// Products of matrices whose rows are short: tiles of the result stay in registers.

#pragma once

#include "simd.h"

namespace fastegnn {

// A view of a matrix to be read in any order: element (i, k) is data[i * row + k * step].
template <class T>
struct Left {
  const T* data;
  Int row, step;
};

template <class T>
inline Left<T> rows(const T* data, Int width) {
  return {data, width, 1};
}

template <class T>
inline Left<T> columns(const T* data, Int width) {  // the transpose
  return {data, 1, width};
}

namespace detail {

// Vectors of the machine, and halves of them for narrow results.
template <class T>
struct Whole {
  using Vector = V<T>;
  static constexpr Int width = kWidth<T>;
  static Vector load(const T* from) { return fastegnn::load(from); }
  static void store(T* to, Vector value) { fastegnn::store(to, value); }
};

template <class T>
struct Quarter {
  using Vector = V4<T>;
  static constexpr Int width = 4;
  static Vector load(const T* from) { return load4(from); }
  static void store(T* to, Vector value) { store4<T>(to, value); }
};

template <class T>
struct Half {
  typedef T Vector __attribute__((vector_size(8 * sizeof(T))));
  typedef T Unaligned __attribute__((vector_size(8 * sizeof(T)), aligned(sizeof(T)), may_alias));
  static constexpr Int width = 8;
  static Vector load(const T* from) { return *reinterpret_cast<const Unaligned*>(from); }
  static void store(T* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
};

template <class T, class Kind, int R, int C>
void tile(Int depth, Left<T> a, const T* b, Int b_row, T* to, Int to_row, const T* start, Int start_row) {
  using Vector = typename Kind::Vector;
  constexpr Int W = Kind::width;
  Vector total[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) total[r][c] = start ? Kind::load(start + r * start_row + c * W) : Vector{};
  for (Int k = 0; k < depth; ++k) {
    Vector right[C];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) right[c] = Kind::load(b + k * b_row + c * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vector left = Vector{} + a.data[r * a.row + k * a.step];
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) total[r][c] += left * right[c];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) Kind::store(to + r * to_row + c * W, total[r][c]);
}

template <class T, class Kind, int R, int C>
void strip(Int count, Int depth, Left<T> a, const T* b, Int b_row, T* to, Int to_row, const T* start, Int start_row) {
  Int r = 0;
  for (; r + R <= count; r += R) {
    tile<T, Kind, R, C>(depth, a, b, b_row, to, to_row, start, start_row);
    a.data += R * a.row;
    to += R * to_row;
    if (start) start += R * start_row;
  }
  if constexpr (R > 6) {
    return strip<T, Kind, 6, C>(count - r, depth, a, b, b_row, to, to_row, start, start_row);
  } else {
    switch (count - r) {
      case 1: return tile<T, Kind, 1, C>(depth, a, b, b_row, to, to_row, start, start_row);
      case 2: return tile<T, Kind, 2, C>(depth, a, b, b_row, to, to_row, start, start_row);
      case 3: return tile<T, Kind, 3, C>(depth, a, b, b_row, to, to_row, start, start_row);
      case 4: return tile<T, Kind, 4, C>(depth, a, b, b_row, to, to_row, start, start_row);
      case 5: return tile<T, Kind, 5, C>(depth, a, b, b_row, to, to_row, start, start_row);
      default: return;
    }
  }
}

}  // namespace detail

// to (count, width) = start + a (count, depth) b (depth, width); width is a multiple of a vector's. `start` has rows
// `start_row` apart, 0 for the same row each time, or is null for zero.
template <class T>
void product(Int count, Int width, Int depth, Left<T> a, const T* b, Int b_row, T* to, Int to_row,
             const T* start = nullptr, Int start_row = 0) {
  using namespace detail;
  constexpr Int W = kWidth<T>;
  Int c = 0;
  for (; c + kTileColumns * W <= width; c += kTileColumns * W)
    strip<T, Whole<T>, kTileRows, kTileColumns>(count, depth, a, b + c, b_row, to + c, to_row, start ? start + c : start,
                                                start_row);
  if constexpr (kTileColumns > 2)
    for (; c + 2 * W <= width; c += 2 * W)
      strip<T, Whole<T>, kTileRows, 2>(count, depth, a, b + c, b_row, to + c, to_row, start ? start + c : start,
                                       start_row);
  for (; c < width; c += W)
    strip<T, Whole<T>, kTileRows, 1>(count, depth, a, b + c, b_row, to + c, to_row, start ? start + c : start,
                                     start_row);
}

// The same for a width of which 4 columns, or a multiple of 8, matter; those beyond are not written.
template <class T>
void narrow_product(Int count, Int width, Int depth, Left<T> a, const T* b, Int b_row, T* to, Int to_row,
                    const T* start, Int start_row) {
  using namespace detail;
  Int c = 0;
  for (; c + 8 <= width; c += 8)
    strip<T, Half<T>, 12, 1>(count, depth, a, b + c, b_row, to + c, to_row, start ? start + c : start, start_row);
  for (; c < width; c += 4)
    strip<T, Quarter<T>, 12, 1>(count, depth, a, b + c, b_row, to + c, to_row, start ? start + c : start, start_row);
}

// The same, added to what is there.
template <class T>
void add_product(Int count, Int width, Int depth, Left<T> a, const T* b, Int b_row, T* to, Int to_row) {
  product(count, width, depth, a, b, b_row, to, to_row, const_cast<const T*>(to), to_row);
}

// to (width) += sums of the columns of a (count, width).
template <class T>
void add_columns(Int count, Int width, const T* a, Int a_row, T* to) {
  for (Int r = 0; r < count; ++r) add(T(1), a + r * a_row, to, width);
}

}  // namespace fastegnn
