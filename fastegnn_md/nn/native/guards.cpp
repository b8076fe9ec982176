// Whether a jump lies within its limits. What is not said to be within is looked at again, and named, in
// integrators/guards.py.

#include <cmath>
#include <cstdint>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

inline double length(double x, double y, double z) { return std::sqrt(x * x + y * y + z * z); }

}  // namespace

// Displacements and speeds of atoms; either limit may be null. NaN is within no limit.
EXPORTED int motion_within(int64_t atoms, const double* before, const double* after, const double* velocities,
                           const double* displacement, const double* speed) {
  for (int64_t i = 0; i < atoms; ++i) {
    const double *a = before + 3 * i, *b = after + 3 * i, *v = velocities + 3 * i;
    if (displacement != nullptr && !(length(b[0] - a[0], b[1] - a[1], b[2] - a[2]) <= displacement[i])) return 0;
    if (speed != nullptr && !(length(v[0], v[1], v[2]) <= speed[i])) return 0;
  }
  return 1;
}

// Lengths of bonds (bonds, 2).
EXPORTED int bonds_within(int64_t count, const int64_t* bonds, const double* positions, const double* shortest,
                          const double* longest) {
  for (int64_t k = 0; k < count; ++k) {
    const double *a = positions + 3 * bonds[2 * k], *b = positions + 3 * bonds[2 * k + 1];
    const double found = length(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
    if (!(found <= longest[k] && found >= shortest[k])) return 0;
  }
  return 1;
}
