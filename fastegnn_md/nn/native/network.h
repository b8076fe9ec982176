// FastEGNN's forward pass on a chunk of systems (Eqs. 3-9 of the paper, and the vector channels of
// fastegnn_md/nn/vectors.py).

#pragma once

#include <algorithm>

#include "messages.h"

namespace fastegnn {

template <class T>
class Network : public EdgeMessages<T> {
 public:
  using EdgeMessages<T>::EdgeMessages;

  // From features (N, F), and what is in values.u[0] and x[0], to the values after the last layer; with vectors also to
  // two combinations of them, change (N, 2, 3). `threads` share the chunk. Virtual nodes may be left as they are before
  // the last layer, if nobody asks for their `ends`; vectors are, where `change` is null.
  void forward(Int threads, const T* features, T* change, bool ends = true) const {
    const std::vector<Int> bounds = ranges(threads);
    const Int parts = Int(bounds.size()) - 1;
    in_parallel(parts, [&](Int part) {
      for (Int n = bounds[part]; n < bounds[part + 1]; n += kNodes) {
        const Int count = std::min(kNodes, bounds[part + 1] - n);
        apply(plan_.embedding, count, features + n * s_.features, s_.features, values_.h[0](n), s_.hidden);
        multiply_nodes(0, n, count);
      }
    });
    start_systems();
    for (Int layer = 0; layer < s_.layers; ++layer) {
      Workspace::Frame frame(workspace());
      const Int size = sums_width() * graph_.systems();
      T* sums = layer + 1 < s_.layers || ends ? frame.zeros<T>(size * parts) : nullptr;
      prepare_systems(layer);
      in_parallel(parts, [&](Int part) {
        nodes_forward(layer, bounds[part], bounds[part + 1], sums ? sums + part * size : nullptr, moves(layer, change));
      });
      if (!sums) break;
      for (Int part = 1; part < parts; ++part)
        for (Int k = 0; k < size; ++k) sums[k] += sums[part * size + k];
      finish_systems(layer, sums);
    }
    if (s_.vectors && change)
      in_parallel(parts, [&](Int part) { read_out(bounds[part], bounds[part + 1], change); });
  }

  // Ranges of nodes with as many edges each.
  std::vector<Int> ranges(Int threads) const {
    const Int first = graph_.first(), last = graph_.last();
    std::vector<Int> bounds{first};
    const auto cost = [&](Int n) { return graph_.rows[n] - graph_.rows[first] + 8 * (n - first); };
    for (Int k = 1; k < threads; ++k) {
      Int low = bounds.back(), high = last;
      while (low < high) {
        const Int middle = (low + high) / 2;
        if (cost(middle) < cost(last) * k / threads) low = middle + 1; else high = middle;
      }
      if (low > bounds.back() && low < last) bounds.push_back(low);
    }
    bounds.push_back(last);
    return bounds;
  }

 protected:
  using EdgeMessages<T>::weight;
  using EdgeMessages<T>::bias;
  using EdgeMessages<T>::apply;
  using EdgeMessages<T>::apply_more;
  using EdgeMessages<T>::edges_forward;
  using EdgeMessages<T>::plan_;
  using EdgeMessages<T>::s_;
  using EdgeMessages<T>::w_;
  using EdgeMessages<T>::graph_;
  using EdgeMessages<T>::values_;
  using EdgeMessages<T>::kept_;

  Int sums_width() const { return s_.virtuals * (s_.hidden + 3); }
  Int size_of(Int system) const { return graph_.begin[system + 1] - graph_.begin[system]; }

  void mean_position(Int layer, Int system, T* mean) const {
    mean[0] = mean[1] = mean[2] = 0;
    for (Int n = graph_.begin[system]; n < graph_.begin[system + 1]; ++n)
      for (Int d = 0; d < 3; ++d) mean[d] += values_.at(values_.x, layer)(n)[d];
    for (Int d = 0; d < 3; ++d) mean[d] /= T(size_of(system));
  }

  void start_systems() const {
    for (Int system = graph_.first_system; system < graph_.last_system; ++system) {
      T mean[3], *z = values_.z[0](system);
      mean_position(0, system, mean);
      for (Int c = 0; c < 3 * s_.virtuals; ++c) z[c] = mean[c % 3];
      std::memcpy(values_.s[0](system), weight(plan_.start), sizeof(T) * size_t(s_.virtuals * s_.hidden));
    }
  }

  // Whether a layer moves vectors, or positions: not the last one, where nobody asks for what is read out of them.
  bool moves(Int layer, const T* change) const { return !s_.vectors || change || layer + 1 < s_.layers; }

  void read_out(Int begin, Int end, T* change) const {
    const Int H = s_.hidden, K4 = s_.K(), wide = plan_.readout_last.wide;
    const auto h = values_.at(values_.h, s_.layers), vectors = values_.at(values_.u, s_.layers);
    Workspace::Frame frame(workspace());
    T *active = frame.take<T>(kNodes * H), *shares = frame.take<T>(kNodes * wide);
    for (Int n = begin; n < end; n += kNodes) {
      const Int count = std::min(kNodes, end - n);
      apply(plan_.readout, count, h(n), H, active, H);
      silu(active, active, count * H);
      apply(plan_.readout_last, count, active, H, shares, wide);
      for (Int row = 0; row < count; ++row) {
        const T *u = vectors(n + row), *own = shares + row * wide;
        for (Int which = 0; which < 2; ++which)
          for (Int d = 0; d < 3; ++d) {
            V4<T> total = {};
            for (Int k = 0; k < K4; k += 4) total += load4(own + which * K4 + k) * load4(u + d * K4 + k);
            change[6 * (n + row) + 3 * which + d] = sum4<T>(total);
          }
      }
    }
  }

  // Products of h that the layer needs of each node.
  void multiply_nodes(Int layer, Int n, Int count) const {
    const Layer& one = plan_.layers[layer];
    apply(one.nodes, count, values_.at(values_.h, layer)(n), s_.hidden, values_.at(values_.products, layer)(n),
          4 * s_.hidden);
  }

  // What s, M and the bias add to the messages of virtual nodes.
  void prepare_systems(Int layer) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, C = s_.virtuals, first = graph_.first_system, count = graph_.systems();
    T* to = values_.at(values_.per_system, layer)(first);
    apply(one.virtual_features, count * C, values_.at(values_.s, layer)(first), H, to, H);
    if (!s_.geometry) return;
    for (Int system = first; system < graph_.last_system; ++system, to += C * H) {
      T mean[3];
      mean_position(layer, system, mean);
      const T* z = values_.at(values_.z, layer)(system);
      for (Int c = 0; c < C; ++c)
        for (Int e = 0; e < C; ++e) {
          T product = 0;
          for (Int d = 0; d < 3; ++d) product += (z[3 * c + d] - mean[d]) * (z[3 * e + d] - mean[d]);
          add(product, weight(one.mixing) + e * H, to + c * H, H);
        }
    }
  }

  // Sums: of pulls on virtual nodes (C, 3) and of messages to them (C, H), for each system.
  void finish_systems(Int layer, const T* sums) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, C = s_.virtuals, first = graph_.first_system, count = graph_.systems();
    Workspace::Frame frame(workspace());
    T* mean = values_.keep ? values_.heard[layer](first) : frame.take<T>(count * C * H);
    T* pre = values_.keep ? values_.feature_pre[layer](first) : frame.take<T>(count * C * H);
    T* active = frame.take<T>(count * C * H);
    for (Int k = 0; k < count; ++k) {
      const T share = T(1) / T(size_of(first + k));
      const T* own = sums + k * sums_width();
      const T* z = values_.at(values_.z, layer)(first + k);
      T* moved = values_.at(values_.z, layer + 1)(first + k);
      for (Int c = 0; c < 3 * C; ++c) moved[c] = z[c] + (s_.geometry ? share * own[c] : 0);
      for (Int c = 0; c < C * H; ++c) mean[k * C * H + c] = share * own[3 * C + c];
    }
    const T* s = values_.at(values_.s, layer)(first);
    T* renewed = values_.at(values_.s, layer + 1)(first);
    apply(one.feature_s, count * C, s, H, pre, H);
    apply_more(one.feature_m, count * C, mean, H, pre, H);
    silu(pre, active, count * C * H);
    apply(one.feature_second, count * C, active, H, renewed, H);
    add(T(1), s, renewed, count * C * H);
  }

  // x_i - z_c (C, 3 in rows of 4, the last its invariant) of a node.
  void displacements(Int layer, Int n, Int system, T* to) const {
    const T *x = values_.at(values_.x, layer)(n), *z = values_.at(values_.z, layer)(system);
    for (Int c = 0; c < s_.virtuals; ++c, to += 4, z += 3) {
      for (Int d = 0; d < 3; ++d) to[d] = x[d] - z[d];
      to[3] = to[0] * to[0] + to[1] * to[1] + to[2] * to[2];
      if (!s_.squared) to[3] = std::sqrt(to[3]);
    }
  }

  Int system_of(Int n) const {
    const Int* found = std::upper_bound(graph_.begin + graph_.first_system, graph_.begin + graph_.last_system, n);
    return found - graph_.begin - 1;
  }

  // First layer of φ2, before its activation, of the nodes of a block with their virtual nodes: rows (n, c).
  void virtual_first(Int layer, Int n, Int count, Int system, T* apart, T* to) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, C = s_.virtuals;
    const auto products = values_.at(values_.products, layer), per_system = values_.at(values_.per_system, layer);
    for (Int row = 0; row < count; ++row) {
      while (n + row >= graph_.begin[system + 1]) ++system;
      const T *node = products(n + row) + 2 * H, *shared = per_system(system);
      T* own = apart + row * C * 4;
      if (s_.geometry) displacements(layer, n + row, system, own);
      for (Int c = 0; c < C; ++c, to += H, shared += H) {
        if (s_.geometry) {
          const T invariant = own[4 * c + 3];
          const T* column = weight(one.distance);
          for (Int k = 0; k < H; k += kWidth<T>)
            store(to + k, load(node + k) + load(shared + k) + invariant * load(column + k));
        } else {
          for (Int k = 0; k < H; k += kWidth<T>) store(to + k, load(node + k) + load(shared + k));
        }
      }
    }
  }

  // `sums`: of finish_systems, or null where nobody goes on from them.
  void nodes_forward(Int layer, Int begin, Int end, T* sums, bool moves) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, C = s_.virtuals, K4 = s_.K(), K = s_.vectors, width = K4 ? 3 * K4 : 4;
    Workspace::Frame frame(workspace());
    EdgeBlock<T> block(plan_, frame, kept_ != nullptr);
    T *own_received = frame.take<T>(kNodes * H), *carried = frame.take<T>(kNodes * width);
    T *apart = frame.take<T>(kNodes * C * 4), *first = frame.take<T>(kNodes * C * H);
    T *own_pre = frame.take<T>(kNodes * C * H), *heard = frame.take<T>(kNodes * C * H);
    T *own_node = frame.take<T>(kNodes * H), *active = frame.take<T>(kNodes * H);
    T* mix = frame.zeros<T>(kNodes * std::max<Int>(one.mix.wide, kWidth<T>));
    T* shares = frame.zeros<T>(kNodes * C * std::max<Int>(one.carried.wide, kWidth<T>));
    T* pulls = frame.take<T>(kNodes * C);
    const bool last = layer + 1 == s_.layers;
    for (Int n = begin; n < end; n += kNodes) {
      const Int count = std::min(kNodes, end - n), pairs = count * C, home = system_of(n);
      T* received = values_.keep ? values_.received[layer](n) : own_received;
      edges_forward(layer, n, count, block, received, carried, moves);
      virtual_first(layer, n, count, home, apart, first);
      silu(first, first, pairs * H);
      T* pre = values_.keep ? values_.virtual_pre[layer](n) : own_pre;
      apply(one.virtual_second, pairs, first, H, pre, H);
      silu(pre, heard, pairs * H);
      if (s_.geometry && sums) {
        T* pull_pre = values_.keep ? values_.pull_pre[layer](n) : own_pre;
        apply(one.pull, pairs, heard, H, pull_pre, H);
        silu(pull_pre, first, pairs * H);
        for (Int p = 0; p < pairs; ++p) pulls[p] = dot(first + p * H, weight(one.pull_last), H);
      }
      for (Int row = 0, system = home; row < count && sums; ++row) {
        while (n + row >= graph_.begin[system + 1]) ++system;
        T* to = sums + (system - graph_.first_system) * sums_width();
        for (Int c = 0; c < C && s_.geometry; ++c)
          for (Int d = 0; d < 3; ++d) to[3 * c + d] -= pulls[row * C + c] * apart[(row * C + c) * 4 + d];
        add(T(1), heard + row * C * H, to + 3 * C, C * H);
      }
      T* node = values_.keep ? values_.node_pre[layer](n) : own_node;
      const T* h = values_.at(values_.h, layer)(n);
      T* renewed = values_.at(values_.h, layer + 1)(n);
      apply(one.node_h, count, h, H, node, H);
      apply_more(one.node_m, count, received, H, node, H);
      apply_more(one.node_v, count, heard, C * H, node, H);
      silu(node, active, count * H);
      apply(one.node_second, count, active, H, renewed, H);
      add(T(1), h, renewed, count * H);
      if (!moves) continue;  // the last layer
      for (Int row = 0; row < count; ++row)
        silu(values_.at(values_.products, layer)(n + row) + 3 * H, active + row * H, H);
      if (K) {
        apply(one.mix, count, active, H, mix, one.mix.wide);
        if (s_.geometry) apply(one.carried, pairs, heard, H, shares, one.carried.wide);
        for (Int row = 0; row < count; ++row)
          move_vectors(values_.at(values_.u, layer)(n + row), carried + row * width, mix + row * one.mix.wide,
                       shares + row * C * one.carried.wide, apart + row * C * 4,
                       values_.at(values_.u, layer + 1)(n + row));
      } else {
        if (s_.geometry) {
          T* real_pre = values_.keep ? values_.real_pre[layer](n) : own_pre;
          apply(one.real, pairs, heard, H, real_pre, H);
          silu(real_pre, first, pairs * H);
          for (Int p = 0; p < pairs; ++p) pulls[p] = dot(first + p * H, weight(one.real_last), H);
        }
        for (Int row = 0; row < count; ++row) {
          const T* x = values_.at(values_.x, layer)(n + row);
          const T* v = values_.at(values_.u, 0)(n + row);
          const T speed = dot(active + row * H, weight(one.velocity), H) + *bias(one.velocity);
          for (Int d = 0; d < 3; ++d) {
            T moved = x[d] + carried[row * width + d] + speed * v[d];
            for (Int c = 0; c < C && s_.geometry; ++c)
              moved += pulls[row * C + c] * apart[(row * C + c) * 4 + d] / T(C);
            values_.at(values_.x, layer + 1)(n + row)[d] = moved;
          }
        }
      }
      if (!last) multiply_nodes(layer + 1, n, count);
    }
  }

  // u_k + carried_k + Σ_l A_kl u_l + (1/C) Σ_c shares_ck (x - z_c)
  void move_vectors(const T* u, const T* carried, const T* mix, const T* shares, const T* apart, T* to) const {
    const Int K = s_.vectors, K4 = s_.K(), C = s_.virtuals, wide = plan_.layers[0].carried.wide;
    for (Int d = 0; d < 3; ++d)
      for (Int k = 0; k < K4; k += 4) {
        V4<T> total = load4(u + d * K4 + k) + load4(carried + d * K4 + k);
        for (Int l = 0; l < K; ++l) total += load4(mix + l * K4 + k) * u[d * K4 + l];
        for (Int c = 0; c < C && s_.geometry; ++c)
          total += load4(shares + c * wide + k) * (apart[4 * c + d] / T(C));
        store4<T>(to + d * K4 + k, total);
      }
  }
};

// Compiled once, in network.cpp.
extern template class Network<float>;
extern template class Network<double>;

}  // namespace fastegnn
