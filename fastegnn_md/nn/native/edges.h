// Which atoms of a chunk of systems are near each other, and what the network is told of that. The formulas are those of
// fastegnn_md/graph/features.py and fastegnn_md/propagator/edge_inputs.py.

#pragma once

#include <algorithm>

#include "network.h"

namespace fastegnn {

constexpr double kPi = 3.14159265358979323846;
constexpr double kOverlap = 1e-3;  // Å
constexpr Int kChunk = 96;         // nodes that a thread takes at a time
constexpr Int kShared = 1500;      // edges and eighths of nodes below which threads cost more than they save

// Systems one after the other, and what makes edges of them.
struct Near {
  Int nodes, systems, edges, threads;  // edges: -1 to search among all pairs of a system
  const Int *begin, *receiver, *sender;
  const double* vector;  // (E, 3) of the edges given; null for differences of positions
  const double* shift;   // (E, 3) to be added to differences of positions: edges to periodic images; or null
  // Bonds: partners of each atom up to three bonds away, and how many bonds; null without.
  const Int *partners_begin, *partners, *steps;
  Int radial, bonded;
  double cutoff;
  Int overlap[2];  // atoms that lie on each other
};

// Calls run(first system, last system, threads, thread) for chunks of systems: several at a time where there are enough,
// else one after the other, each with all threads.
template <class Run>
void for_chunks(const Near& near, const Run& run) {
  std::vector<std::pair<Int, Int>> chunks;
  for (Int first = 0; first < near.systems;) {
    Int last = first + 1;
    while (last < near.systems && near.begin[last + 1] - near.begin[first] <= kChunk) ++last;
    chunks.push_back({first, last});
    first = last;
  }
  const Int count = Int(chunks.size());
  if (count >= near.threads && near.threads > 1) {
    in_parallel(near.threads, [&](Int thread) {
      for (Int k = thread; k < count; k += near.threads) run(chunks[k].first, chunks[k].second, Int(1), thread);
    });
    return;
  }
  const Int work = (near.edges < 0 ? 16 * near.nodes : near.edges) + 8 * near.nodes;
  for (const auto& chunk : chunks) run(chunk.first, chunk.second, work < kShared ? Int(1) : near.threads, Int(0));
}

template <class T>
T envelope(T u) {
  u = std::min(u, T(1));
  return T(1) - u * u * u * (T(10) - T(15) * u + T(6) * u * u);
}

inline double envelope_slope(double u) { return u < 1 ? -30 * u * u * (1 - u) * (1 - u) : 0.0; }

template <class T>
class ChunkEdges {
 public:
  // Rows count from the first node of all, edges from that of the chunk.
  Int *rows, *sender, *receiver;
  Int* twin = nullptr;  // the edge in the other direction, where it came first; else -1; null for edges given
  T *vector, *attributes, *weight, *distance;
  double* apart;  // x_i - x_j in Å (E, 3)
  Int count = 0;

  // Of systems [first_system, last_system), at positions x (N, 3). Atoms that lie on each other are noted in `near`.
  ChunkEdges(Near& near, Int attributes, Int first_system, Int last_system, const double* x, Workspace::Frame& frame)
      : near_(near), A(attributes) {
    const Int first = near.begin[first_system], last = near.begin[last_system];
    rows = frame.take<Int>(last - first + 1) - first;
    rows[first] = 0;
    if (near.edges >= 0) find_given(first, last, x, frame);
    else find_pairs(first_system, last_system, x, frame);
    describe(frame);
  }

  // From gradients of vector, attributes and weight to those of positions (N, 3), in their unit per Å, added.
  void backward(const T* of_vector, const T* of_attributes, const T* of_weight, double* to) const {
    const double step = kPi / near_.cutoff;
    for (Int e = 0; e < count; ++e) {
      // An edge and its twin have the same attributes, so what they get is added up and differentiated once.
      if (twin && twin[e] < 0) continue;
      const Int other = twin ? twin[e] : e;
      const double* d = apart + 3 * e;
      const double r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]), inverse = 1 / r;
      const auto both = [&](const T* of, Int width, Int k) {
        return double(of[e * width + k]) + (twin ? double(of[other * width + k]) : 0.0);
      };
      double of_r = both(of_weight, 1, 0) * envelope_slope(r / near_.cutoff) / near_.cutoff;
      // (sin(n a) / r)' with a = π r / cutoff
      const double angle = step * r, twice = 2 * std::cos(angle);
      double sine[2] = {0, std::sin(angle)}, cosine[2] = {1, 0.5 * twice};
      for (Int n = 0; n < near_.radial; ++n) {
        of_r += both(of_attributes, A, n) * (double(n + 1) * step * cosine[1] - sine[1] * inverse) * inverse;
        const double next[2] = {twice * sine[1] - sine[0], twice * cosine[1] - cosine[0]};
        sine[0] = sine[1], sine[1] = next[0], cosine[0] = cosine[1], cosine[1] = next[1];
      }
      double *to_i = to + 3 * receiver[e], *to_j = to + 3 * sender[e];
      for (Int k = 0; k < 3; ++k) {
        const double across = double(of_vector[3 * e + k]) - (twin ? double(of_vector[3 * other + k]) : 0.0);
        const double total = across / near_.cutoff + of_r * d[k] * inverse;
        to_i[k] += total, to_j[k] -= total;
      }
    }
  }

 private:
  Near& near_;
  const Int A;

  void find_pairs(Int first_system, Int last_system, const double* x, Workspace::Frame& frame) {
    Int most = 0;
    for (Int s = first_system; s < last_system; ++s) {
      const Int size = near_.begin[s + 1] - near_.begin[s];
      most += size * (size - 1);
    }
    const double limit = near_.cutoff * near_.cutoff;
    sender = frame.take<Int>(most), receiver = frame.take<Int>(most);
    twin = frame.take<Int>(most);
    apart = frame.take<double>(3 * most);
    for (Int s = first_system; s < last_system; ++s) {
      const Int a = near_.begin[s], b = near_.begin[s + 1], size = b - a;
      Workspace::Frame own(workspace());
      Int* place = own.take<Int>(size * size);
      for (Int i = a; i < b; ++i) {
        for (Int j = a; j < b; ++j) {
          const double dx = x[3 * i] - x[3 * j], dy = x[3 * i + 1] - x[3 * j + 1], dz = x[3 * i + 2] - x[3 * j + 2];
          if (!(dx * dx + dy * dy + dz * dz < limit) || i == j) continue;
          receiver[count] = i, sender[count] = j;
          apart[3 * count] = dx, apart[3 * count + 1] = dy, apart[3 * count + 2] = dz;
          place[(i - a) * size + j - a] = count;
          twin[count] = j < i ? place[(j - a) * size + i - a] : -1;
          ++count;
        }
        rows[i + 1] = count;
      }
    }
  }

  // The part of the edges given that belongs to nodes [first, last).
  void find_given(Int first, Int last, const double* x, Workspace::Frame& frame) {
    const Int* all = near_.receiver;
    const Int begin = std::lower_bound(all, all + near_.edges, first) - all;
    const Int end = std::lower_bound(all + begin, all + near_.edges, last) - all;
    if (near_.shift) return find_shifted(first, last, begin, end, x, frame);
    count = end - begin;
    sender = const_cast<Int*>(near_.sender) + begin, receiver = const_cast<Int*>(all) + begin;
    Int e = 0;
    for (Int n = first; n < last; ++n) {
      while (e < count && receiver[e] == n) ++e;
      rows[n + 1] = e;
    }
    if (near_.vector) {
      apart = const_cast<double*>(near_.vector) + 3 * begin;
      return;
    }
    apart = frame.take<double>(3 * count);
    for (e = 0; e < count; ++e)
      for (Int d = 0; d < 3; ++d) apart[3 * e + d] = x[3 * receiver[e] + d] - x[3 * sender[e] + d];
  }

  // Of edges [begin, end) given those within the cutoff.
  void find_shifted(Int first, Int last, Int begin, Int end, const double* x, Workspace::Frame& frame) {
    sender = frame.take<Int>(end - begin), receiver = frame.take<Int>(end - begin);
    apart = frame.take<double>(3 * (end - begin));
    const double limit = near_.cutoff * near_.cutoff;
    for (Int n = first, e = begin; n < last; ++n) {
      for (; e < end && near_.receiver[e] == n; ++e) {
        double *d = apart + 3 * count, square = 0;
        for (Int k = 0; k < 3; ++k) {
          d[k] = x[3 * n + k] - x[3 * near_.sender[e] + k] + near_.shift[3 * e + k];
          square += d[k] * d[k];
        }
        if (square < limit) sender[count] = near_.sender[e], receiver[count] = n, ++count;
      }
      rows[n + 1] = count;
    }
  }

  void describe(Workspace::Frame& frame) {
    vector = frame.take<T>(3 * count), attributes = frame.take<T>(A * count);
    weight = frame.take<T>(count), distance = frame.take<T>(count);
    const Int parts = twin || count < kShared ? 1 : near_.threads;
    in_parallel(parts, [&](Int part) { describe_part(count * part / parts, count * (part + 1) / parts); });
  }

  void describe_part(Int begin, Int end) {
    for (Int e = begin; e < end; ++e) {
      const double* d = apart + 3 * e;
      for (Int k = 0; k < 3; ++k) vector[3 * e + k] = T(d[k]) / T(near_.cutoff);
      T* own = attributes + A * e;
      if (twin && twin[e] >= 0) {
        std::memcpy(own, attributes + A * twin[e], sizeof(T) * size_t(A));
        weight[e] = weight[twin[e]], distance[e] = distance[twin[e]];
        continue;
      }
      const double r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
      if (!(r >= kOverlap)) {
#if defined(_OPENMP)
#pragma omp critical
#endif
        near_.overlap[0] = receiver[e], near_.overlap[1] = sender[e];
      }
      distance[e] = T(r), weight[e] = envelope(T(r) / T(near_.cutoff));
      // sin(n a) from the two before: 2 cos(a) sin((n-1) a) - sin((n-2) a)
      const double angle = kPi * r / near_.cutoff, twice = 2 * std::cos(angle);
      double before = 0, now = std::sin(angle);
      for (Int n = 0; n < near_.radial; ++n) {
        own[n] = T(now / r);
        const double next = twice * now - before;
        before = now, now = next;
      }
      T* hops = own + near_.radial;
      for (Int k = 0; k < 4; ++k) hops[k] = 0;
      if (near_.bonded) hops[bonds_between(receiver[e], sender[e])] = 1;
    }
  }

  Int bonds_between(Int i, Int j) const {
    if (near_.partners_begin)
      for (Int k = near_.partners_begin[i]; k < near_.partners_begin[i + 1]; ++k)
        if (near_.partners[k] == j) return near_.steps[k];
    return 3;
  }
};

// Positions of a chunk about the mean of each system, in units of the cutoff; zero for periodic systems.
template <class T>
void centre(const Near& near, Int first_system, Int last_system, const double* x, bool periodic,
            const typename Values<T>::Array& to) {
  for (Int s = first_system; s < last_system; ++s) {
    double origin[3] = {0, 0, 0};
    const Int a = near.begin[s], b = near.begin[s + 1];
    for (Int n = a; n < b && !periodic; ++n)
      for (Int d = 0; d < 3; ++d) origin[d] += x[3 * n + d] / double(b - a);
    for (Int n = a; n < b; ++n)
      for (Int d = 0; d < 3; ++d) to(n)[d] = periodic ? T(0) : T(x[3 * n + d] - origin[d]) / T(near.cutoff);
  }
}

}  // namespace fastegnn
