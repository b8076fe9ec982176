// Gradients of FastEGNN on a chunk of systems, written by hand.

#pragma once

#include "edge_gradients.h"

namespace fastegnn {

template <class T>
class Gradients : public EdgeGradients<T> {
 public:
  using EdgeGradients<T>::EdgeGradients;

  // From slopes of the last values, and of what is read out of them (or null), to those of the first. `of_weights` takes
  // the gradients of the weights, one buffer for each of `threads`; null where nobody asks. `ends` as it was in forward.
  void backward(Int threads, const T* change, const T* features, T* const* of_weights, bool ends = true) const {
    const std::vector<Int> bounds = this->ranges(threads);
    std::vector<T*> found;
    for (Int part = 0; part < threads; ++part) found.push_back(of_weights ? of_weights[part] : nullptr);
    const Int parts = Int(bounds.size()) - 1, H = s_.hidden, nodes = graph_.last() - graph_.first();
    in_parallel(parts, [&](Int part) { read_out_backward(bounds[part], bounds[part + 1], change, found[part]); });
    for (Int layer = s_.layers - 1; layer >= 0; --layer) {
      Workspace::Frame frame(workspace());
      const Int size = this->sums_width() * graph_.systems();
      T* sums = frame.zeros<T>(size * parts);
      const bool moves = this->moves(layer, change), heard = ends || layer + 1 < s_.layers;
      if (heard) finish_systems_backward(layer, found[0]);
      in_parallel(parts, [&](Int part) {
        nodes_backward(layer, bounds[part], bounds[part + 1], sums + part * size, found[part], moves, heard);
      });
      for (Int part = 1; part < parts; ++part)
        for (Int k = 0; k < size; ++k) sums[k] += sums[part * size + k];
      prepare_systems_backward(layer, sums, found[0]);
      // What edges give back to their senders: every part for itself, as senders may be those of another part.
      const Int moved = s_.vectors ? 3 * s_.K() : 3, width = H + moved;
      T* given = parts > 1 ? frame.zeros<T>(parts * nodes * width) : nullptr;
      in_parallel(parts, [&](Int part) {
        T* own = given + part * nodes * width;
        const typename Values<T>::Array b = given ? typename Values<T>::Array{own, H, graph_.first()}
                                                  : typename Values<T>::Array{g_.products.data + H, 4 * H, graph_.first()};
        const typename Values<T>::Array u = given ? typename Values<T>::Array{own + nodes * H, moved, graph_.first()}
                                                  : (s_.vectors ? g_.u : g_.x);
        edges_backward(layer, bounds[part], bounds[part + 1], b, u, found[part], moves);
      });
      in_parallel(parts, [&](Int part) {
        const Int begin = bounds[part], end = bounds[part + 1];
        for (Int other = 0; other < parts && given; ++other) {
          const T* own = given + other * nodes * width;
          for (Int n = begin; n < end; ++n) {
            const Int row = n - graph_.first();
            add(T(1), own + row * H, g_.products(n) + H, H);
            T* to = s_.vectors ? g_.u(n) : g_.x(n);
            for (Int k = 0; k < moved; ++k) to[k] += own[nodes * H + row * moved + k];
          }
        }
        const Linear& one = plan_.layers[layer].nodes;
        for (Int n = begin; n < end; n += kNodes) {
          const Int count = std::min(kNodes, end - n);
          weight_gradient(one, count, values_.h[layer](n), H, g_.products(n), 4 * H, found[part]);
          add_product(count, H, 4 * H, rows(g_.products(n), 4 * H), t_ + one.t, one.tall, g_.h(n), H);
          std::memset(g_.products(n), 0, sizeof(T) * size_t(count * 4 * H));
        }
      });
    }
    in_parallel(parts, [&](Int part) {
      const Int n = bounds[part];
      weight_gradient(plan_.embedding, bounds[part + 1] - n, features + n * s_.features, s_.features, g_.h(n), H,
                      found[part]);
    });
    for (Int system = graph_.first_system; system < graph_.last_system && found[0]; ++system)
      add(T(1), g_.s(system), found[0] + plan_.start.w, s_.virtuals * H);
    // Virtual nodes started at the mean position.
    for (Int system = graph_.first_system; system < graph_.last_system && s_.geometry; ++system)
      for (Int d = 0; d < 3; ++d) {
        T total = 0;
        for (Int c = 0; c < s_.virtuals; ++c) total += g_.z(system)[3 * c + d];
        for (Int n = graph_.begin[system]; n < graph_.begin[system + 1]; ++n)
          g_.x(n)[d] += total / T(this->size_of(system));
      }
  }

 protected:
  using EdgeGradients<T>::plan_;
  using EdgeGradients<T>::s_;
  using EdgeGradients<T>::graph_;
  using EdgeGradients<T>::values_;
  using EdgeGradients<T>::kept_;
  using EdgeGradients<T>::t_;
  using EdgeGradients<T>::g_;
  using EdgeGradients<T>::weight_gradient;
  using EdgeGradients<T>::input_gradient;
  using EdgeGradients<T>::add_input_gradient;
  using EdgeGradients<T>::coefficient_gradient;
  using EdgeGradients<T>::edges_backward;

  // φS: what comes back to the mean messages, and to s.
  void finish_systems_backward(Int layer, T* found) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, C = s_.virtuals, first = graph_.first_system, count = graph_.systems() * C;
    Workspace::Frame frame(workspace());
    T *active = frame.take<T>(count * H), *slope = frame.take<T>(count * H), *g = frame.take<T>(count * H);
    silu(values_.feature_pre[layer](first), active, slope, count * H);
    T* of_s = g_.s(first);
    weight_gradient(one.feature_second, count, active, H, of_s, H, found);
    input_gradient(one.feature_second, count, of_s, H, g, H);
    multiply(slope, g, count * H);
    weight_gradient(one.feature_s, count, values_.s[layer](first), H, g, H, found);
    weight_gradient(one.feature_m, count, values_.heard[layer](first), H, g, H, found);
    add_input_gradient(one.feature_s, count, g, H, of_s, H);
    input_gradient(one.feature_m, count, g, H, g_.heard(first), H);
  }

  // What s, M and the bias add to messages of virtual nodes; sums are of nodes: to z (C, 3) and to these (C, H).
  void prepare_systems_backward(Int layer, const T* sums, T* found) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, C = s_.virtuals;
    Workspace::Frame frame(workspace());
    T *M = frame.take<T>(C * C), *of_M = frame.take<T>(C * C), *centred = frame.take<T>(3 * C);
    for (Int system = graph_.first_system; system < graph_.last_system; ++system, sums += this->sums_width()) {
      const T* own = sums + 3 * C;
      weight_gradient(one.virtual_features, C, values_.s[layer](system), H, own, H, found);
      add_input_gradient(one.virtual_features, C, own, H, g_.s(system), H);
      if (!s_.geometry) continue;
      T mean[3];
      this->mean_position(layer, system, mean);
      const T* z = values_.z[layer](system);
      for (Int c = 0; c < C; ++c)
        for (Int d = 0; d < 3; ++d) centred[3 * c + d] = z[3 * c + d] - mean[d];
      for (Int c = 0; c < C; ++c)
        for (Int e = 0; e < C; ++e) {
          M[c * C + e] = 0;
          for (Int d = 0; d < 3; ++d) M[c * C + e] += centred[3 * c + d] * centred[3 * e + d];
          if (found) add(M[c * C + e], own + c * H, found + one.mixing.w + e * one.mixing.wide, H);
          of_M[c * C + e] = dot(own + c * H, this->weight(one.mixing) + e * one.mixing.wide, H);
        }
      T of_mean[3] = {0, 0, 0};
      T* of_z = g_.z(system);
      for (Int c = 0; c < C; ++c)
        for (Int d = 0; d < 3; ++d) {
          T total = 0;
          for (Int e = 0; e < C; ++e) total += (of_M[c * C + e] + of_M[e * C + c]) * centred[3 * e + d];
          of_z[3 * c + d] += sums[3 * c + d] + total;
          of_mean[d] -= total;
        }
      for (Int n = graph_.begin[system]; n < graph_.begin[system + 1]; ++n)
        for (Int d = 0; d < 3; ++d) g_.x(n)[d] += of_mean[d] / T(this->size_of(system));
    }
  }

  void read_out_backward(Int begin, Int end, const T* change, T* found) const {
    if (!s_.vectors || change == nullptr) return;
    const Int H = s_.hidden, K4 = s_.K(), L = s_.layers, wide = plan_.readout_last.wide;
    Workspace::Frame frame(workspace());
    T *active = frame.take<T>(kNodes * H), *slope = frame.take<T>(kNodes * H), *g = frame.take<T>(kNodes * H);
    T *shares = frame.take<T>(kNodes * wide), *of_shares = frame.zeros<T>(kNodes * wide);
    for (Int n = begin; n < end; n += kNodes) {
      const Int count = std::min(kNodes, end - n);
      this->apply(plan_.readout, count, values_.h[L](n), H, g, H);
      silu(g, active, slope, count * H);
      this->apply(plan_.readout_last, count, active, H, shares, wide);
      for (Int row = 0; row < count; ++row) {
        const T *u = values_.u[L](n + row), *own = shares + row * wide, *of = change + 6 * (n + row);
        T *of_u = g_.u(n + row), *of_own = of_shares + row * wide;
        for (Int which = 0; which < 2; ++which, of += 3)
          for (Int k = 0; k < K4; ++k) {
            T total = 0;
            for (Int d = 0; d < 3; ++d) {
              total += of[d] * u[d * K4 + k];
              of_u[d * K4 + k] += of[d] * own[which * K4 + k];
            }
            of_own[which * K4 + k] = total;
          }
      }
      weight_gradient(plan_.readout_last, count, active, H, of_shares, wide, found);
      input_gradient(plan_.readout_last, count, of_shares, wide, g, H);
      multiply(slope, g, count * H);
      weight_gradient(plan_.readout, count, values_.h[L](n), H, g, H, found);
      add_input_gradient(plan_.readout, count, g, H, g_.h(n), H);
    }
  }

  // `moves` and `heard_of`: whether the layer's vectors, or positions, and its virtual nodes matter.
  void nodes_backward(Int layer, Int begin, Int end, T* sums, T* found, bool moves, bool heard_of) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, C = s_.virtuals, K = s_.vectors, width = g_.carried.width;
    const Int mixed = std::max<Int>(one.mix.wide, kWidth<T>), shared = std::max<Int>(one.carried.wide, kWidth<T>);
    Workspace::Frame frame(workspace());
    const auto pairs_of = [&](Int columns) { return frame.take<T>(kNodes * C * columns); };
    T *apart = pairs_of(4), *of_apart = pairs_of(4), *coefficients = pairs_of(1);
    T *first = pairs_of(H), *first_slope = pairs_of(H), *heard = pairs_of(H), *heard_slope = pairs_of(H);
    T *active = pairs_of(H), *slope = pairs_of(H), *g = pairs_of(H), *of_heard = pairs_of(H);
    T *shares = pairs_of(shared), *of_shares = frame.zeros<T>(kNodes * C * shared);
    T *mix = frame.take<T>(kNodes * mixed), *of_mix = frame.zeros<T>(kNodes * mixed);
    for (Int n = begin; n < end; n += kNodes) {
      const Int count = std::min(kNodes, end - n), pairs = count * C, home = this->system_of(n);
      this->virtual_first(layer, n, count, home, apart, first);
      silu(first, first, first_slope, pairs * H);
      silu(values_.virtual_pre[layer](n), heard, heard_slope, pairs * H);
      std::memset(of_apart, 0, sizeof(T) * size_t(pairs * 4));
      // φh
      silu(values_.node_pre[layer](n), active, slope, count * H);
      weight_gradient(one.node_second, count, active, H, g_.h(n), H, found);
      input_gradient(one.node_second, count, g_.h(n), H, g, H);
      multiply(slope, g, count * H);
      weight_gradient(one.node_h, count, values_.h[layer](n), H, g, H, found);
      weight_gradient(one.node_m, count, values_.received[layer](n), H, g, H, found);
      weight_gradient(one.node_v, count, heard, C * H, g, H, found);
      add_input_gradient(one.node_h, count, g, H, g_.h(n), H);
      input_gradient(one.node_m, count, g, H, g_.received(n), H);
      input_gradient(one.node_v, count, g, H, of_heard, C * H);
      // A of vectors, or φv
      for (Int row = 0; row < count && moves; ++row)
        silu(values_.products[layer](n + row) + 3 * H, active + row * H, slope + row * H, H);
      if (K && moves) {
        this->apply(one.mix, count, active, H, mix, one.mix.wide);
        if (s_.geometry) this->apply(one.carried, pairs, heard, H, shares, one.carried.wide);
        for (Int row = 0; row < count; ++row)
          vectors_backward(n + row, layer, mix + row * one.mix.wide, shares + row * C * one.carried.wide,
                           apart + row * C * 4, of_mix + row * one.mix.wide, of_shares + row * C * one.carried.wide,
                           of_apart + row * C * 4);
        weight_gradient(one.mix, count, active, H, of_mix, one.mix.wide, found);
        input_gradient(one.mix, count, of_mix, one.mix.wide, g, H);
        if (s_.geometry) {
          weight_gradient(one.carried, pairs, heard, H, of_shares, one.carried.wide, found);
          add_input_gradient(one.carried, pairs, of_shares, one.carried.wide, of_heard, H);
        }
        for (Int row = 0; row < count; ++row) {
          T* to = g_.products(n + row) + 3 * H;
          for (Int k = 0; k < H; k += kWidth<T>) store(to + k, load(g + row * H + k) * load(slope + row * H + k));
        }
      } else if (!K) {
        for (Int row = 0; row < count; ++row) {
          const T *v = values_.u[0](n + row), *of_x = g_.x(n + row);
          const T of_speed = of_x[0] * v[0] + of_x[1] * v[1] + of_x[2] * v[2];
          const T speed = dot(active + row * H, this->weight(one.velocity), H) + *this->bias(one.velocity);
          for (Int d = 0; d < 3; ++d) g_.u(n + row)[d] += speed * of_x[d];
          for (Int d = 0; d < 3; ++d) g_.carried(n + row)[d] = of_x[d];
          if (found) found[one.velocity.b] += of_speed;
          coefficient_gradient(one.velocity, 1, &of_speed, active + row * H, slope + row * H,
                               g_.products(n + row) + 3 * H, found);
        }
        if (s_.geometry) {
          silu(values_.real_pre[layer](n), active, slope, pairs * H);
          for (Int p = 0; p < pairs; ++p) {
            const T* of_x = g_.x(n + p / C);
            const T coefficient = dot(active + p * H, this->weight(one.real_last), H);
            coefficients[p] = 0;
            for (Int d = 0; d < 3; ++d) {
              coefficients[p] += of_x[d] * apart[4 * p + d] / T(C);
              of_apart[4 * p + d] += coefficient * of_x[d] / T(C);
            }
          }
          coefficient_gradient(one.real_last, pairs, coefficients, active, slope, g, found);
          weight_gradient(one.real, pairs, heard, H, g, H, found);
          add_input_gradient(one.real, pairs, g, H, of_heard, H);
        }
      }
      // φZ, and the mean of messages
      if (s_.geometry && heard_of) {
        silu(values_.pull_pre[layer](n), active, slope, pairs * H);
        for (Int row = 0, system = home; row < count; ++row) {
          while (n + row >= graph_.begin[system + 1]) ++system;
          const T share = T(1) / T(this->size_of(system));
          for (Int c = 0, p = row * C; c < C; ++c, ++p) {
            const T* of_z = g_.z(system) + 3 * c;
            const T coefficient = dot(active + p * H, this->weight(one.pull_last), H);
            coefficients[p] = 0;
            for (Int d = 0; d < 3; ++d) {
              coefficients[p] -= share * of_z[d] * apart[4 * p + d];
              of_apart[4 * p + d] -= share * coefficient * of_z[d];
            }
          }
        }
        coefficient_gradient(one.pull_last, pairs, coefficients, active, slope, g, found);
        weight_gradient(one.pull, pairs, heard, H, g, H, found);
        add_input_gradient(one.pull, pairs, g, H, of_heard, H);
      }
      for (Int row = 0, system = home; row < count && heard_of; ++row) {
        while (n + row >= graph_.begin[system + 1]) ++system;
        add(T(1) / T(this->size_of(system)), g_.heard(system), of_heard + row * C * H, C * H);
      }
      // φ2
      multiply(heard_slope, of_heard, pairs * H);
      weight_gradient(one.virtual_second, pairs, first, H, of_heard, H, found);
      input_gradient(one.virtual_second, pairs, of_heard, H, g, H);
      multiply(first_slope, g, pairs * H);
      for (Int row = 0, system = home; row < count; ++row) {
        while (n + row >= graph_.begin[system + 1]) ++system;
        T* to = sums + (system - graph_.first_system) * this->sums_width();
        T* node = g_.products(n + row) + 2 * H;
        for (Int c = 0, p = row * C; c < C; ++c, ++p) {
          add(T(1), g + p * H, node, H);
          add(T(1), g + p * H, to + 3 * C + c * H, H);
          if (!s_.geometry) continue;
          T* of = of_apart + 4 * p;
          if (found) add(apart[4 * p + 3], g + p * H, found + one.distance.w, H);
          const T of_invariant = dot(g + p * H, this->weight(one.distance), H);
          const T factor = s_.squared ? 2 * of_invariant
                                      : (apart[4 * p + 3] > 0 ? of_invariant / apart[4 * p + 3] : T(0));
          for (Int d = 0; d < 3; ++d) {
            of[d] += factor * apart[4 * p + d];
            g_.x(n + row)[d] += of[d];
            to[3 * c + d] -= of[d];
          }
        }
      }
      for (Int row = 0; row < count; ++row) {
        const T factor = this->average(n + row);
        for (Int k = 0; k < H; ++k) g_.received(n + row)[k] *= factor;
        for (Int k = 0; k < width; ++k) g_.carried(n + row)[k] *= factor;
      }
    }
  }

  // Of move_vectors, for one node.
  void vectors_backward(Int n, Int layer, const T* mix, const T* shares, const T* apart, T* of_mix, T* of_shares,
                        T* of_apart) const {
    const Int K = s_.vectors, K4 = s_.K(), C = s_.virtuals, wide = plan_.layers[0].carried.wide;
    T *g = g_.u(n), *carried = g_.carried(n);
    const T* u = values_.u[layer](n);
    std::memcpy(carried, g, sizeof(T) * size_t(3 * K4));
    for (Int l = 0; l < K; ++l)
      for (Int k = 0; k < K4; k += 4) {
        V4<T> total = {};
        for (Int d = 0; d < 3; ++d) total += load4(carried + d * K4 + k) * u[d * K4 + l];
        store4<T>(of_mix + l * K4 + k, total);
        const V4<T> own = load4(mix + l * K4 + k);
        for (Int d = 0; d < 3; ++d) g[d * K4 + l] += sum4<T>(own * load4(carried + d * K4 + k));
      }
    if (!s_.geometry) return;
    const T share = T(1) / T(C);
    for (Int c = 0; c < C; ++c)
      for (Int k = 0; k < K4; k += 4) {
        V4<T> total = {};
        const V4<T> own = load4(shares + c * wide + k);
        for (Int d = 0; d < 3; ++d) {
          const V4<T> of = share * load4(carried + d * K4 + k);
          total += of * apart[4 * c + d];
          of_apart[4 * c + d] += sum4<T>(own * of);
        }
        store4<T>(of_shares + c * wide + k, total);
      }
  }
};

extern template class Gradients<float>;
extern template class Gradients<double>;

}  // namespace fastegnn
