// A learned energy of each system, unit Σ_i φ(h_i) of FastEGNN's features after the last layer, and its gradients.

#pragma once

#include <optional>

#include "edges.h"
#include "gradients.h"

namespace fastegnn {

// φ of nodes, between the two passes through the network.
template <class T>
class EnergyHead : public Gradients<T> {
 public:
  using Gradients<T>::Gradients;

  // values[n] = φ(h_n); where `of` (N) is not null also gradients of Σ of[n] φ(h_n): to `to`, and to weights in `found`.
  void run(Int begin, Int end, T* values, const T* of, const typename Values<T>::Array& to, T* found) const {
    const Int H = s_.hidden;
    const Linear &first = plan_.energy, &last = plan_.energy_last;
    const auto h = values_.at(values_.h, s_.layers);
    Workspace::Frame frame(workspace());
    T *active = frame.take<T>(kNodes * H), *slope = frame.take<T>(kNodes * H), *g = frame.take<T>(kNodes * H);
    for (Int n = begin; n < end; n += kNodes) {
      const Int count = std::min(kNodes, end - n);
      this->apply(first, count, h(n), H, active, H);
      silu(active, active, slope, count * H);
      for (Int row = 0; row < count; ++row)
        values[n + row] = dot(active + row * H, this->weight(last), H) + *this->bias(last);
      if (!of) continue;
      this->coefficient_gradient(last, count, of + n, active, slope, g, found);
      this->weight_gradient(first, count, h(n), H, g, H, found);
      this->input_gradient(first, count, g, H, to(n), H);
      for (Int row = 0; row < count && found; ++row) found[last.b] += of[n + row];
    }
  }

 private:
  using Gradients<T>::plan_;
  using Gradients<T>::s_;
  using Gradients<T>::values_;
};

// Edges of a chunk up to which hidden values are kept for the way back: beyond, they would fill the memory and not the
// caches.
constexpr Int kKept = 8192;

template <class T>
class Potential {
 public:
  // Weights are packed with their transposes; `unit` is that of the energy.
  Potential(const Plan& plan, const T* weights, Near& near, double unit)
      : plan_(plan), s_(plan.shape), w_(weights), near_(near), unit_(unit) {}

  // Of systems [first_system, last_system) at positions x (N, 3), with features (N, F): their energies, and the gradient
  // of Σ seeds[b] U_b with respect to x, added to `gradient`, and to weights, added to `found` (a buffer for each of
  // `threads`). Each of the three may be null. False where two atoms lie on each other.
  bool evaluate(Int first_system, Int last_system, const double* x, const T* features, const double* seeds,
                double* energies, double* gradient, T* const* found, Int threads) const {
    Workspace::Frame frame(workspace());
    const Int first = near_.begin[first_system], last = near_.begin[last_system], count = last - first;
    const Int systems = last_system - first_system;
    const bool back = gradient || found;
    const ChunkEdges<T> edges(near_, s_.attributes, first_system, last_system, x, frame);
    if (near_.overlap[0] >= 0) return false;
    const Graph<T> graph{first_system, last_system,      near_.begin, edges.rows, edges.sender,
                         edges.vector, edges.attributes, edges.weight};
    T* data = frame.take<T>(Values<T>::size(plan_, count, systems, back));
    const Values<T> values(plan_, data, first, count, first_system, systems, back);
    centre<T>(near_, first_system, last_system, x, !s_.geometry, values.x[0]);
    std::memset(values.u[0](first), 0, sizeof(T) * size_t(count * values.u[0].width));
    Slopes<T> slopes(plan_, frame, graph);
    if (gradient) {
      slopes.vector = frame.zeros<T>(3 * edges.count);
      slopes.attributes = frame.zeros<T>(s_.attributes * edges.count);
      slopes.weight = frame.zeros<T>(edges.count);
    }
    std::optional<Messages<T>> kept;
    if (back && edges.count <= kKept) kept.emplace(plan_, frame, edges.count, found != nullptr);
    const EnergyHead<T> head(plan_, w_, graph, values, w_ + plan_.weights, slopes, kept ? &*kept : nullptr);
    head.forward(threads, features, nullptr, false);
    T *each = frame.take<T>(count) - first, *of = back ? frame.take<T>(count) - first : nullptr;
    for (Int s = first_system; s < last_system && back; ++s)
      for (Int n = near_.begin[s]; n < near_.begin[s + 1]; ++n) of[n] = T(unit_ * (seeds ? seeds[s] : 1.0));
    head.run(first, last, each, of, slopes.h, found ? found[0] : nullptr);
    for (Int s = first_system; s < last_system && energies; ++s) {
      double total = 0;
      for (Int n = near_.begin[s]; n < near_.begin[s + 1]; ++n) total += double(each[n]);
      energies[s] = unit_ * total;
    }
    if (!back) return true;
    head.backward(threads, nullptr, features, found, false);
    if (!gradient) return true;
    edges.backward(slopes.vector, slopes.attributes, slopes.weight, gradient);
    for (Int s = first_system; s < last_system; ++s) {
      // A displacement of a whole system changes nothing; rounding would.
      const Int a = near_.begin[s], b = near_.begin[s + 1];
      double mean[3] = {0, 0, 0};
      for (Int n = a; n < b; ++n)
        for (Int d = 0; d < 3; ++d) mean[d] += double(slopes.x(n)[d]) / double(b - a);
      for (Int n = a; n < b; ++n)
        for (Int d = 0; d < 3; ++d) gradient[3 * n + d] += (double(slopes.x(n)[d]) - mean[d]) / near_.cutoff;
    }
    return true;
  }

 private:
  const Plan& plan_;
  const Shape& s_;
  const T* w_;
  Near& near_;
  const double unit_;
};

}  // namespace fastegnn
