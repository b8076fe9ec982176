// The learned energy of many systems for Python; fastegnn_md/nn/native/potential.py says what it is given.

#include "potential.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace fastegnn {
namespace {

struct Energies : Near {
  const double *positions, *seeds, *direction;  // (N, 3), (B) or null, (N, 3) or null
  const void* features;                         // (N, F)
  double unit, step;                            // step: Å
  double *energies, *gradient;                  // (B) and (N, 3), or null
  void* const* parameters;                      // gradients of parameters, to be added to; or null
};

// With a direction w gradients are derivatives of gradients along it, by differences: those of U(x + ε w) / 2ε less
// those of U(x - ε w) / 2ε, with an ε for each system that moves none of its atoms by more than `step`.
template <class T>
class Run {
 public:
  Run(const Plan& plan, const T* weights, Energies& given)
      : plan_(plan), given_(given), potential_(plan, weights, given, given.unit) {}

  bool run() {
    Workspace::Frame frame(workspace());
    given_.overlap[0] = -1;
    std::vector<T*> found;
    for (Int k = 0; k < given_.threads && given_.parameters; ++k) found.push_back(frame.zeros<T>(plan_.weights));
    if (given_.gradient) std::memset(given_.gradient, 0, sizeof(double) * size_t(3 * given_.nodes));
    for_chunks(given_, [&](Int first, Int last, Int threads, Int thread) {
      T* const* own = given_.parameters ? &found[size_t(thread)] : nullptr;
      if (given_.direction) return along(first, last, own, threads);
      potential_.evaluate(first, last, given_.positions, features(), given_.seeds, given_.energies, given_.gradient,
                          own, threads);
    });
    for (size_t k = 1; k < found.size(); ++k) add(T(1), found[k], found[0], plan_.weights);
    // A constant in the energy has no gradient: what is there is rounding.
    if (given_.parameters && given_.direction) found[0][plan_.energy_last.b] = 0;
    if (given_.parameters) plan_.unpack(found[0], reinterpret_cast<T* const*>(given_.parameters));
    return given_.overlap[0] < 0;
  }

 private:
  const T* features() const { return static_cast<const T*>(given_.features); }

  void along(Int first_system, Int last_system, T* const* found, Int threads) {
    Workspace::Frame frame(workspace());
    const Int first = given_.begin[first_system], count = given_.begin[last_system] - first;
    double *x = frame.take<double>(3 * count) - 3 * first;
    double* epsilon = frame.take<double>(last_system - first_system) - first_system;
    double* seeds = frame.take<double>(last_system - first_system) - first_system;
    const double* w = given_.direction;
    bool moved = false;
    for (Int s = first_system; s < last_system; ++s) {
      double most = 0, total = 0;  // `total` is NaN where anything is
      for (Int n = given_.begin[s]; n < given_.begin[s + 1]; ++n) {
        const double square = w[3 * n] * w[3 * n] + w[3 * n + 1] * w[3 * n + 1] + w[3 * n + 2] * w[3 * n + 2];
        most = std::max(most, square), total += square;
      }
      epsilon[s] = total != 0 ? given_.step / std::sqrt(most) : 0;
      moved = moved || total != 0;
    }
    if (!moved) return;
    for (const double sign : {1.0, -1.0}) {
      for (Int s = first_system; s < last_system; ++s) {
        seeds[s] = epsilon[s] > 0 ? sign * (given_.seeds ? given_.seeds[s] : 1.0) / (2 * epsilon[s]) : 0;
        for (Int k = 3 * given_.begin[s]; k < 3 * given_.begin[s + 1]; ++k)
          x[k] = given_.positions[k] + sign * epsilon[s] * w[k];
      }
      if (!potential_.evaluate(first_system, last_system, x, features(), seeds, nullptr, given_.gradient, found, threads))
        return;
    }
  }

  const Plan& plan_;
  Energies& given_;
  const Potential<T> potential_;
};

}  // namespace
}  // namespace fastegnn

using namespace fastegnn;

// 1 where two atoms lie on each other, whose numbers are then in `overlap`; -1 where memory runs out; else 0. Weights are packed with transposes.
EXPORT int fastegnn_energies(const void* plan, const void* weights, Energies* given) {
  const Plan& one = *static_cast<const Plan*>(plan);
  return within_memory([&] {
    const bool fine = one.doubles ? Run<double>(one, static_cast<const double*>(weights), *given).run()
                                  : Run<float>(one, static_cast<const float*>(weights), *given).run();
    return fine ? 0 : 1;
  });
}
