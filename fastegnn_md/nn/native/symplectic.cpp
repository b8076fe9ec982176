// Half a jump of isolated systems as one call, of a map whose kicks are gradients of a learned energy; the formulas are
// those of fastegnn_md/propagator/symplectic.py.

#include "potential.h"
#include "surroundings.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace fastegnn {
namespace {

struct Half : Near {
  // Of the start, with forces null; or of the middle, with the forces of the engine there. Units Å, ps, amu.
  const double *positions, *velocities, *forces, *masses;
  const void* features;  // (N, F), the last one to be filled with the place of a kick
  Int kicks;
  double unit, timestep;
  double *displacement, *moved;  // (N, 3): from there to the middle, before its kick, or from the middle to the end
  Surroundings around;           // of the start
};

template <class T>
class Halves {
 public:
  Halves(const Plan& plan, const T* weights, Half& half)
      : F_(plan.shape.features), A_(plan.shape.attributes), half_(half), potential_(plan, weights, half, half.unit) {}

  bool run() {
    half_.overlap[0] = -1;
    for_chunks(half_, [&](Int first, Int last, Int threads, Int) { run(first, last, threads); });
    return half_.overlap[0] < 0;
  }

 private:
  void run(Int first_system, Int last_system, Int threads) {
    Workspace::Frame frame(workspace());
    const Int first = half_.begin[first_system], last = half_.begin[last_system], count = last - first;
    T* features = frame.take<T>(F_ * count) - F_ * first;
    double *x = frame.take<double>(3 * count) - 3 * first, *gradient = frame.take<double>(3 * count) - 3 * first;
    std::memcpy(features + F_ * first, static_cast<const T*>(half_.features) + F_ * first,
                sizeof(T) * size_t(F_ * count));
    if (half_.around.unlike) {
      Workspace::Frame own(workspace());
      const ChunkEdges<T> edges(half_, A_, first_system, last_system, half_.positions, own);
      if (half_.overlap[0] >= 0) return;
      surroundings(half_.around, first, last, edges);
    }
    const double step = half_.timestep / double(half_.kicks);
    double *moved = half_.displacement, *v = half_.moved;
    for (Int k = 3 * first; k < 3 * last; ++k) moved[k] = 0, v[k] = half_.velocities[k];
    const auto drift = [&](double time) {
      for (Int k = 3 * first; k < 3 * last; ++k) moved[k] += time * v[k];
    };
    // Gradients of the energy at a place, counted in pairs of kicks from the middle.
    const auto slope = [&](Int number) {
      for (Int n = first; n < last; ++n) features[F_ * n + F_ - 1] = T(2 * number) / T(half_.kicks);
      for (Int k = 3 * first; k < 3 * last; ++k) x[k] = half_.positions[k] + moved[k], gradient[k] = 0;
      return potential_.evaluate(first_system, last_system, x, features, nullptr, nullptr, gradient, nullptr, threads);
    };
    const auto kick = [&](double own, double engine) {
      for (Int k = 3 * first; k < 3 * last; ++k)
        v[k] += (engine * (half_.forces ? half_.forces[k] : 0.0) - own * gradient[k]) / half_.masses[k / 3];
    };
    if (!half_.forces) {
      drift(0.5 * step);
      for (Int number = half_.kicks / 2; number > 0; --number) {
        if (!slope(number)) return;
        kick(step, 0);
        drift(step);
      }
      return;
    }
    std::memset(gradient + 3 * first, 0, sizeof(double) * size_t(3 * count));
    if (half_.kicks > 1 && !slope(0)) return;
    kick(step - half_.timestep, half_.timestep);
    for (Int number = 1; number <= half_.kicks / 2; ++number) {
      drift(step);
      if (!slope(number)) return;
      kick(step, 0);
    }
    drift(0.5 * step);
  }

  const Int F_, A_;
  Half& half_;
  const Potential<T> potential_;
};

}  // namespace
}  // namespace fastegnn

using namespace fastegnn;

// 1 where two atoms lie on each other, whose numbers are then in `overlap`; -1 where memory runs out; else 0. Weights are packed with transposes.
EXPORT int fastegnn_half(const void* plan, const void* weights, Half* half) {
  const Plan& one = *static_cast<const Plan*>(plan);
  return within_memory([&] {
    const bool fine = one.doubles ? Halves<double>(one, static_cast<const double*>(weights), *half).run()
                                  : Halves<float>(one, static_cast<const float*>(weights), *half).run();
    return fine ? 0 : 1;
  });
}
