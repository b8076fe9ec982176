// A jump of small systems as one call: neighbours, features, the network, and what is made of its answer. The formulas
// are those of fastegnn_md/propagator (full.py, kick_drift.py, surroundings.py).

#include "surroundings.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace fastegnn {
namespace {

struct Jump : Near {
  const double *positions, *velocities, *forces, *masses;  // forces or null
  const Int* species;
  const void *features, *linear, *scale;  // (N, F), (S, 4) and (S, 2); of kicks: linear null, scale (S)
  Int periodic, conserve, kicks;
  double timestep, velocity_scale, force_scale;
  double *displacement, *moved;  // (N, 3); Å and Å/ps
  Surroundings around;
};

template <class T>
class Jumper {
 public:
  Jumper(const Plan& plan, const T* weights, Jump& jump) : plan_(plan), s_(plan.shape), w_(weights), j_(jump) {}

  bool run() {
    j_.overlap[0] = -1;
    for_chunks(j_, [&](Int first, Int last, Int threads, Int) {
      if (j_.kicks) kick_and_drift(first, last, threads); else jump(first, last, threads);
    });
    return j_.overlap[0] < 0;
  }

 private:
  // The network at positions (N, 3), on values whose vectors are there: change (N, 2, 3).
  void network(Int first_system, Int last_system, const double* x, const ChunkEdges<T>& edges, const Values<T>& values,
               const T* features, T* change, Int threads) const {
    centre<T>(j_, first_system, last_system, x, j_.periodic != 0, values.x[0]);
    const Graph<T> graph{first_system, last_system,      j_.begin,    edges.rows, edges.sender,
                         edges.vector, edges.attributes, edges.weight};
    Network<T>(plan_, w_, graph, values).forward(threads, features, change, false);
  }

  void jump(Int first_system, Int last_system, Int threads) {
    Workspace::Frame frame(workspace());
    const Int first = j_.begin[first_system], last = j_.begin[last_system], count = last - first, K4 = s_.K();
    const ChunkEdges<T> edges(j_, s_.attributes, first_system, last_system, j_.positions, frame);
    if (j_.overlap[0] >= 0) return;
    T* data = frame.take<T>(Values<T>::size(plan_, count, last_system - first_system, false));
    const Values<T> values(plan_, data, first, count, first_system, last_system - first_system, false);
    T* change = frame.take<T>(6 * count) - 6 * first;
    T* v = frame.take<T>(3 * count) - 3 * first;
    double* drift = frame.zeros<double>(3 * (last_system - first_system)) - 3 * first_system;
    for (Int s = first_system; s < last_system; ++s) {
      double mass = 0, *own = drift + 3 * s;
      for (Int n = j_.begin[s]; n < j_.begin[s + 1] && j_.conserve; ++n) {
        mass += j_.masses[n];
        for (Int d = 0; d < 3; ++d) own[d] += j_.masses[n] * j_.velocities[3 * n + d];
      }
      for (Int d = 0; d < 3 && j_.conserve; ++d) own[d] /= mass;
      for (Int n = j_.begin[s]; n < j_.begin[s + 1]; ++n) {
        const T root = std::sqrt(T(j_.masses[n]));
        T* u = values.u[0](n);
        for (Int k = 0; k < 3 * K4; ++k) u[k] = 0;
        for (Int d = 0; d < 3; ++d) {
          v[3 * n + d] = T(j_.velocities[3 * n + d] - own[d]);
          u[d * K4] = v[3 * n + d] / T(j_.velocity_scale);
          if (j_.forces) u[d * K4 + 1] = T(j_.forces[3 * n + d]) / (root * T(j_.force_scale));
        }
      }
    }
    network(first_system, last_system, j_.positions, edges, values, static_cast<const T*>(j_.features), change,
            threads);
    const T dt = T(j_.timestep);
    for (Int s = first_system; s < last_system; ++s) {
      T mass = 0, mean[6] = {0, 0, 0, 0, 0, 0};
      for (Int n = j_.begin[s]; n < j_.begin[s + 1]; ++n) {
        const T m = T(j_.masses[n]), root = std::sqrt(m);
        const T* c = static_cast<const T*>(j_.linear) + 4 * j_.species[n];
        const T* scale = static_cast<const T*>(j_.scale) + 2 * j_.species[n];
        mass += m;
        for (Int d = 0; d < 3; ++d) {
          const T impulse = j_.forces ? dt * T(j_.forces[3 * n + d]) / m : T(0);
          T* one = change + 6 * n + d;
          one[0] = c[0] * dt * v[3 * n + d] + c[1] * dt * impulse + scale[0] / root * one[0];
          one[3] = c[2] * v[3 * n + d] + c[3] * impulse + scale[1] / root * one[3];
          mean[d] += m * one[0], mean[3 + d] += m * one[3];
        }
      }
      for (Int n = j_.begin[s]; n < j_.begin[s + 1]; ++n)
        for (Int d = 0; d < 3; ++d) {
          const T *one = change + 6 * n + d, own = T(drift[3 * s + d]);
          j_.displacement[3 * n + d] = j_.conserve ? one[0] - mean[d] / mass + dt * own : one[0];
          j_.moved[3 * n + d] = j_.conserve ? one[3] - mean[3 + d] / mass + own : one[3];
        }
    }
    if (j_.around.unlike) surroundings(j_.around, first, last, edges);
  }

  void kick_and_drift(Int first_system, Int last_system, Int threads) {
    Workspace::Frame frame(workspace());
    const Int first = j_.begin[first_system], last = j_.begin[last_system], count = last - first, K4 = s_.K();
    const Int F = s_.features;
    double *x = frame.take<double>(3 * count) - 3 * first, *a = frame.take<double>(3 * count) - 3 * first;
    T *features = frame.take<T>(F * count) - F * first, *change = frame.take<T>(6 * count) - 6 * first;
    std::memcpy(features + F * first, static_cast<const T*>(j_.features) + F * first, sizeof(T) * size_t(F * count));
    T* data = frame.take<T>(Values<T>::size(plan_, count, last_system - first_system, false));
    const Values<T> values(plan_, data, first, count, first_system, last_system - first_system, false);
    const double step = j_.timestep / double(j_.kicks);
    for (Int k = 3 * first; k < 3 * last; ++k) {
      j_.moved[k] = j_.velocities[k];
      j_.displacement[k] = 0.5 * step * j_.velocities[k];
    }
    for (Int kick = 0; kick < j_.kicks; ++kick) {
      Workspace::Frame own(workspace());
      const Int number = 2 * kick + 1 - j_.kicks;
      const T place = T(number < 0 ? -number : number) / T(j_.kicks);
      for (Int n = first; n < last; ++n) {
        features[F * n + F - 1] = place;
        for (Int d = 0; d < 3; ++d) x[3 * n + d] = j_.positions[3 * n + d] + j_.displacement[3 * n + d];
        for (Int k = 0; k < 3 * K4; ++k) values.u[0](n)[k] = 0;
      }
      const ChunkEdges<T> edges(j_, s_.attributes, first_system, last_system, x, own);
      if (j_.overlap[0] >= 0) return;
      if (kick == 0 && j_.around.unlike) surroundings(j_.around, first, last, edges);
      network(first_system, last_system, x, edges, values, features, change, threads);
      for (Int s = first_system; s < last_system; ++s) {
        double mass = 0, mean[3] = {0, 0, 0};
        for (Int n = j_.begin[s]; n < j_.begin[s + 1]; ++n) {
          const T scale = static_cast<const T*>(j_.scale)[j_.species[n]] / std::sqrt(T(j_.masses[n]));
          mass += j_.masses[n];
          for (Int d = 0; d < 3; ++d) {
            a[3 * n + d] = double(scale * change[6 * n + 3 + d]);
            mean[d] += j_.masses[n] * a[3 * n + d];
          }
        }
        const double drift = kick + 1 < j_.kicks ? step : 0.5 * step;
        for (Int n = j_.begin[s]; n < j_.begin[s + 1]; ++n)
          for (Int d = 0; d < 3; ++d) {
            const double own_a = j_.conserve ? a[3 * n + d] - mean[d] / mass : a[3 * n + d];
            j_.moved[3 * n + d] += step * own_a;
            j_.displacement[3 * n + d] += drift * j_.moved[3 * n + d];
          }
      }
    }
  }

  const Plan& plan_;
  const Shape& s_;
  const T* w_;
  Jump& j_;
};

}  // namespace
}  // namespace fastegnn

using namespace fastegnn;

// 1 where two atoms lie on each other, whose numbers are then in `overlap`; -1 where memory runs out; else 0.
EXPORT int fastegnn_jump(const void* plan, const void* weights, Jump* jump) {
  const Plan& one = *static_cast<const Plan*>(plan);
  return within_memory([&] {
    const bool fine = one.doubles ? Jumper<double>(one, static_cast<const double*>(weights), *jump).run()
                                  : Jumper<float>(one, static_cast<const float*>(weights), *jump).run();
    return fine ? 0 : 1;
  });
}
