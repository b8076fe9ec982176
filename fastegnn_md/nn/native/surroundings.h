// How unlike the surroundings of atoms are those of training; the formulas are those of
// fastegnn_md/propagator/surroundings.py.

#pragma once

#include "edges.h"

namespace fastegnn {

struct Surroundings {
  // Element of each node, sizes, and tensors (size, elements, size) and (elements, size).
  const Int* element;
  Int elements, functions;
  double reach, first, spacing, skirt;
  const void *whitening, *offset;
  void* unlike;  // (N), or null where nobody asks
};

// Distance of the surroundings of nodes [first, last) from those of training.
template <class T>
void surroundings(const Surroundings& known, Int first, Int last, const ChunkEdges<T>& edges) {
  const Int functions = known.functions, size = functions * known.elements, wide = padded<T>(functions);
  const T *whitening = static_cast<const T*>(known.whitening), *offset = static_cast<const T*>(known.offset);
  Workspace::Frame frame(workspace());
  T *weights = frame.take<T>(wide), *centres = frame.take<T>(wide), *density = frame.take<T>(size);
  T* own = frame.take<T>(size);
  for (Int k = 0; k < wide; ++k) centres[k] = T(known.first + known.spacing * double(k));
  for (Int n = first; n < last; ++n) {
    std::memset(density, 0, sizeof(T) * size_t(size));
    for (Int e = edges.rows[n]; e < edges.rows[n + 1]; ++e) {
      const T r = edges.distance[e];
      if (!(r < T(known.reach))) continue;
      const T share = envelope(std::max(r - T(known.reach) + T(known.skirt), T(0)) / T(known.skirt));
      for (Int k = 0; k < wide; k += kWidth<T>) {
        const V<T> away = (r - load(centres + k)) / T(known.spacing);
        store<T>(weights + k, share * exponential(T(-0.5) * away * away));
      }
      T* to = density + functions * known.element[edges.sender[e]];
      for (Int k = 0; k < functions; ++k) to[k] += weights[k];
    }
    const Int element = known.element[n];
    for (Int k = 0; k < size; ++k) own[k] = -offset[element * size + k];
    for (Int a = 0; a < size; ++a) {
      const T* row = whitening + (a * known.elements + element) * size;
      if (density[a] == 0) continue;
      for (Int k = 0; k < size; ++k) own[k] += density[a] * row[k];
    }
    T square = 0;
    for (Int k = 0; k < size; ++k) square += own[k] * own[k];
    static_cast<T*>(known.unlike)[n] = std::sqrt(square);
  }
}

}  // namespace fastegnn
