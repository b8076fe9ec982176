// Fixed bond lengths in small groups of coupled bonds: Newton's method with a dense solve for each group.
//
// The equations and their tolerance are those of fastegnn_md/mechanics/constraints.py, which solves what is left to it:
// whatever returns 0 here is solved again there, and refused there in words.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kLargest = 32;  // bonds of a group; as in mechanics/small_groups.py

struct Vector {
  double x, y, z;
};

inline double dot(const Vector& a, const Vector& b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

// Solves A x = b in place by elimination with pivoting; false if A is singular.
bool solve(double* a, double* b, int m) {
  for (int k = 0; k < m; ++k) {
    int pivot = k;
    for (int i = k + 1; i < m; ++i) {
      if (std::fabs(a[i * m + k]) > std::fabs(a[pivot * m + k])) pivot = i;
    }
    if (!(std::fabs(a[pivot * m + k]) > 0.0)) return false;  // NaN too
    if (pivot != k) {
      std::swap_ranges(a + k * m, a + k * m + m, a + pivot * m);
      std::swap(b[k], b[pivot]);
    }
    for (int i = k + 1; i < m; ++i) {
      const double factor = a[i * m + k] / a[k * m + k];
      for (int j = k + 1; j < m; ++j) a[i * m + j] -= factor * a[k * m + j];
      b[i] -= factor * b[k];
    }
  }
  for (int k = m - 1; k >= 0; --k) {
    for (int j = k + 1; j < m; ++j) b[k] -= a[k * m + j] * b[j];
    b[k] /= a[k * m + k];
  }
  return true;
}

}  // namespace

extern "C" {

// What the groups of one system are; the arrays belong to the caller.
struct FixedGroups {
  int64_t atoms;
  int64_t groups;
  const int64_t* starts;     // (groups + 1): where the bonds of a group begin
  const int64_t* ends;       // (bonds, 2): first and second atom
  const double* mobility;    // (bonds, 2): inverse masses, that of the second atom negative
  const double* lengths;     // (bonds)
  const double* coupling;    // (m, m) of each group, one after the other
  const uint8_t* frozen;     // (atoms), or null where no atom is
};

}  // extern "C"

namespace {

// The bonds of one group.
struct Group {
  const int64_t* ends;
  const double* mobility;
  const double* lengths;
  const double* coupling;
  int size;

  void vectors(const double* x, const double* shifts, Vector* out) const {
    for (int k = 0; k < size; ++k) {
      const double *a = x + 3 * ends[2 * k], *b = x + 3 * ends[2 * k + 1];
      out[k] = {a[0] - b[0], a[1] - b[1], a[2] - b[2]};
      if (shifts != nullptr) {
        out[k].x += shifts[3 * k];
        out[k].y += shifts[3 * k + 1];
        out[k].z += shifts[3 * k + 2];
      }
    }
  }

  // Impulses along the directions that change r_k . dr_k by what is wanted, which they replace.
  bool multipliers(const Vector* vectors, const Vector* directions, double* wanted) const {
    double matrix[kLargest * kLargest];
    for (int k = 0; k < size; ++k) {
      for (int l = 0; l < size; ++l) matrix[k * size + l] = coupling[k * size + l] * dot(vectors[k], directions[l]);
    }
    return solve(matrix, wanted, size);
  }

  void push(double* x, const double* impulses, const Vector* directions) const {
    for (int end = 0; end < 2; ++end) {
      for (int k = 0; k < size; ++k) {
        const double impulse = mobility[2 * k + end] * impulses[k];
        double* atom = x + 3 * ends[2 * k + end];
        atom[0] += impulse * directions[k].x;
        atom[1] += impulse * directions[k].y;
        atom[2] += impulse * directions[k].z;
      }
    }
  }
};

// Calls f(group, shifts of the group) until one fails.
template <typename F>
bool each(const FixedGroups& all, const double* shifts, F f) {
  const double* coupling = all.coupling;
  for (int64_t g = 0; g < all.groups; ++g) {
    const int64_t begin = all.starts[g];
    const int size = static_cast<int>(all.starts[g + 1] - begin);
    const Group group{all.ends + 2 * begin, all.mobility + 2 * begin, all.lengths + begin, coupling, size};
    if (!f(group, shifts == nullptr ? nullptr : shifts + 3 * begin)) return false;
    coupling += size * size;
  }
  return true;
}

}  // namespace

extern "C" {

// Positions nearest to `after` with the fixed lengths, moved along the bonds of `reference`; 0 if they were not reached.
__attribute__((visibility("default"))) int hold_positions(const FixedGroups* all, const double* before,
                                                          const double* after, const double* reference,
                                                          const double* shifts, double smallest, double eps,
                                                          int64_t iterations, double* out) {
  std::memcpy(out, after, 3 * all->atoms * sizeof(double));
  if (all->frozen != nullptr) {
    for (int64_t i = 0; i < all->atoms; ++i) {
      if (all->frozen[i]) std::memcpy(out + 3 * i, before + 3 * i, 3 * sizeof(double));
    }
  }
  double farthest = 0.0;
  for (int64_t i = 0; i < 3 * all->atoms; ++i) farthest = std::max(farthest, std::fabs(out[i]));
  return each(*all, shifts, [&](const Group& group, const double* own) {
    Vector directions[kLargest], vectors[kLargest];
    double error[kLargest];
    group.vectors(reference == nullptr ? out : reference, own, directions);
    for (int64_t step = 0; step < iterations; ++step) {
      group.vectors(out, own, vectors);
      bool done = true;
      for (int k = 0; k < group.size; ++k) {
        const double length = group.lengths[k];
        const double excess = dot(vectors[k], vectors[k]) - length * length;
        done = done && std::fabs(excess) <= length * (smallest * length + eps * farthest);
        error[k] = -0.5 * excess;
      }
      if (done) return true;
      if (!group.multipliers(vectors, directions, error)) return false;
      group.push(out, error, directions);
    }
    return false;
  });
}

// Velocities without their component along the bonds at `positions`; 0 if there is no solution.
__attribute__((visibility("default"))) int hold_velocities(const FixedGroups* all, const double* positions,
                                                           const double* velocities, const double* shifts,
                                                           double* out) {
  std::memcpy(out, velocities, 3 * all->atoms * sizeof(double));
  if (all->frozen != nullptr) {
    for (int64_t i = 0; i < all->atoms; ++i) {
      if (all->frozen[i]) std::fill(out + 3 * i, out + 3 * i + 3, 0.0);
    }
  }
  return each(*all, shifts, [&](const Group& group, const double* own) {
    Vector vectors[kLargest], relative[kLargest];
    double wanted[kLargest];
    group.vectors(positions, own, vectors);
    group.vectors(out, nullptr, relative);
    for (int k = 0; k < group.size; ++k) wanted[k] = -dot(vectors[k], relative[k]);
    if (!group.multipliers(vectors, vectors, wanted)) return false;
    group.push(out, wanted, vectors);
    return true;
  });
}

// Both, after a jump.
__attribute__((visibility("default"))) int hold_both(const FixedGroups* all, const double* before, const double* after,
                                                     const double* velocities, const double* shifts, double smallest,
                                                     double eps, int64_t iterations, double* positions, double* out) {
  return hold_positions(all, before, after, nullptr, shifts, smallest, eps, iterations, positions) &&
         hold_velocities(all, positions, velocities, shifts, out);
}

}  // extern "C"
