// Rigid motion of systems and thermal kicks, as in fastegnn_md/mechanics/motion.py and integrators/thermostats.py.
//
// Atoms of a system stand together: `batch` (atoms) never decreases. All functions give 1.

#include <algorithm>
#include <cmath>
#include <cstdint>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

// Eigenvalues (ascending) and eigenvectors (columns) of a symmetric matrix, by Jacobi's rotations.
void eigen(double a[3][3], double values[3], double vectors[3][3]) {
  double v[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
  const double trace = std::fabs(a[0][0]) + std::fabs(a[1][1]) + std::fabs(a[2][2]);
  for (int sweep = 0; sweep < 30; ++sweep) {
    if (std::fabs(a[0][1]) + std::fabs(a[0][2]) + std::fabs(a[1][2]) <= 1e-20 * trace) break;
    for (int p = 0; p < 2; ++p) {
      for (int q = p + 1; q < 3; ++q) {
        if (a[p][q] == 0.0) continue;
        const double theta = 0.5 * (a[q][q] - a[p][p]) / a[p][q];
        const double t = (theta >= 0 ? 1.0 : -1.0) / (std::fabs(theta) + std::sqrt(theta * theta + 1.0));
        const double c = 1.0 / std::sqrt(t * t + 1.0), s = t * c;
        a[p][p] -= t * a[p][q];
        a[q][q] += t * a[p][q];
        a[p][q] = a[q][p] = 0.0;
        const int r = 3 - p - q;
        const double rp = a[r][p], rq = a[r][q];
        a[r][p] = a[p][r] = c * rp - s * rq;
        a[r][q] = a[q][r] = s * rp + c * rq;
        for (auto& row : v) {
          const double ip = row[p], iq = row[q];
          row[p] = c * ip - s * iq;
          row[q] = s * ip + c * iq;
        }
      }
    }
  }
  int order[3] = {0, 1, 2};
  std::sort(order, order + 3, [&](int i, int j) { return a[i][i] < a[j][j]; });
  for (int k = 0; k < 3; ++k) {
    values[k] = a[order[k]][order[k]];
    for (int i = 0; i < 3; ++i) vectors[i][k] = v[i][order[k]];
  }
}

int64_t end_of(int64_t begin, int64_t atoms, const int64_t* batch) {
  int64_t end = begin + 1;
  while (end < atoms && batch[end] == batch[begin]) ++end;
  return end;
}

void mean(int64_t begin, int64_t end, const double* masses, const double* vectors, double out[3]) {
  double sum[3] = {0, 0, 0}, mass = 0;
  for (int64_t i = begin; i < end; ++i) {
    mass += masses[i];
    for (int k = 0; k < 3; ++k) sum[k] += masses[i] * vectors[3 * i + k];
  }
  for (int k = 0; k < 3; ++k) out[k] = sum[k] / mass;
}

// Principal moments about a centre of mass, zero where they are below a share of the largest or `square` times the mass.
void principal_of(int64_t begin, int64_t end, const double* masses, const double* positions, const double centre[3],
                  double share, double square, double moments[3], double vectors[3][3]) {
  double second[3][3] = {}, inertia[3][3], mass = 0;
  for (int64_t i = begin; i < end; ++i) {
    const double* x = positions + 3 * i;
    const double r[3] = {x[0] - centre[0], x[1] - centre[1], x[2] - centre[2]};
    for (int k = 0; k < 3; ++k) {
      for (int l = 0; l < 3; ++l) second[k][l] += masses[i] * r[k] * r[l];
    }
    mass += masses[i];
  }
  const double trace = second[0][0] + second[1][1] + second[2][2];
  for (int k = 0; k < 3; ++k) {
    for (int l = 0; l < 3; ++l) inertia[k][l] = (k == l ? trace : 0.0) - second[k][l];
  }
  eigen(inertia, moments, vectors);
  const double least = std::max(share * moments[2], square * mass);
  for (int k = 0; k < 3; ++k) {
    if (!(moments[k] > least)) moments[k] = 0.0;
  }
}

}  // namespace

// Mass-weighted means of vectors (atoms, 3) over each system, for each of its atoms: (atoms, 3).
EXPORTED int weighted_means(int64_t atoms, const int64_t* batch, const double* masses, const double* vectors,
                            double* out) {
  for (int64_t begin = 0, end; begin < atoms; begin = end) {
    end = end_of(begin, atoms, batch);
    double centre[3];
    mean(begin, end, masses, vectors, centre);
    for (int64_t i = begin; i < end; ++i) std::copy(centre, centre + 3, out + 3 * i);
  }
  return 1;
}

// Sum of m (x - X) x v of each system about its centre of mass X: (systems, 3).
EXPORTED int angular_momenta(int64_t atoms, const int64_t* batch, const double* masses, const double* positions,
                             const double* velocities, double* out) {
  for (int64_t begin = 0, end; begin < atoms; begin = end, out += 3) {
    end = end_of(begin, atoms, batch);
    double centre[3];
    mean(begin, end, masses, positions, centre);
    out[0] = out[1] = out[2] = 0.0;
    for (int64_t i = begin; i < end; ++i) {
      const double *x = positions + 3 * i, *v = velocities + 3 * i;
      const double r[3] = {x[0] - centre[0], x[1] - centre[1], x[2] - centre[2]};
      out[0] += masses[i] * (r[1] * v[2] - r[2] * v[1]);
      out[1] += masses[i] * (r[2] * v[0] - r[0] * v[2]);
      out[2] += masses[i] * (r[0] * v[1] - r[1] * v[0]);
    }
  }
  return 1;
}

// Principal moments (systems, 3), ascending, and axes (systems, 3, 3) in columns.
EXPORTED int principal(int64_t atoms, const int64_t* batch, const double* masses, const double* positions, double share,
                       double square, double* moments, double* axes) {
  for (int64_t begin = 0, end; begin < atoms; begin = end, moments += 3, axes += 9) {
    end = end_of(begin, atoms, batch);
    double centre[3], vectors[3][3];
    mean(begin, end, masses, positions, centre);
    principal_of(begin, end, masses, positions, centre, share, square, moments, vectors);
    for (int k = 0; k < 9; ++k) axes[k] = vectors[k / 3][k % 3];
  }
  return 1;
}

// Velocities (atoms, 3) of rigid rotations with the angular momenta (systems, 3).
EXPORTED int rotations(int64_t atoms, const int64_t* batch, const double* masses, const double* positions,
                       const double* angular, double share, double square, double* out) {
  for (int64_t begin = 0, end; begin < atoms; begin = end, angular += 3) {
    end = end_of(begin, atoms, batch);
    double centre[3], moments[3], axes[3][3], spin[3] = {0, 0, 0};
    mean(begin, end, masses, positions, centre);
    principal_of(begin, end, masses, positions, centre, share, square, moments, axes);
    for (int k = 0; k < 3; ++k) {
      if (moments[k] == 0.0) continue;
      const double rate = (axes[0][k] * angular[0] + axes[1][k] * angular[1] + axes[2][k] * angular[2]) / moments[k];
      for (int i = 0; i < 3; ++i) spin[i] += axes[i][k] * rate;
    }
    for (int64_t i = begin; i < end; ++i) {
      const double* x = positions + 3 * i;
      const double r[3] = {x[0] - centre[0], x[1] - centre[1], x[2] - centre[2]};
      out[3 * i] = spin[1] * r[2] - spin[2] * r[1];
      out[3 * i + 1] = spin[2] * r[0] - spin[0] * r[2];
      out[3 * i + 2] = spin[0] * r[1] - spin[1] * r[0];
    }
  }
  return 1;
}

// kept v + sqrt(square / m) noise: (atoms, 3).
EXPORTED int kick(int64_t atoms, const double* masses, const double* velocities, const double* noise, double kept,
                  double square, double* out) {
  for (int64_t i = 0; i < atoms; ++i) {
    const double width = std::sqrt(square / masses[i]);
    for (int k = 0; k < 3; ++k) out[3 * i + k] = kept * velocities[3 * i + k] + width * noise[3 * i + k];
  }
  return 1;
}
