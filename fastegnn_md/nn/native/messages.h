// What nodes of FastEGNN hear of their neighbours (Eqs. 3 and 4 of the paper, and the vector channels of
// fastegnn_md/nn/vectors.py), and the products of matrices that every part of the network is made of.

#pragma once

#include <algorithm>

#include "values.h"

namespace fastegnn {

template <class T>
class EdgeMessages {
 public:
  // `kept`: of a network with vectors, where hidden values of edges are kept; or null.
  EdgeMessages(const Plan& plan, const T* weights, const Graph<T>& graph, const Values<T>& values,
               const Messages<T>* kept = nullptr)
      : plan_(plan), s_(plan.shape), w_(weights), graph_(graph), values_(values), kept_(kept) {}

 protected:
  const T* weight(const Linear& one) const { return w_ + one.w; }
  const T* bias(const Linear& one) const { return w_ + one.b; }

  // to = a w + b
  void apply(const Linear& one, Int count, const T* a, Int a_row, T* to, Int to_row) const {
    const Int used = (one.out + 3) / 4 * 4;  // padding stays as it is
    if (used < one.wide)
      return narrow_product(count, used, one.in, rows(a, a_row), weight(one), one.wide, to, to_row,
                            one.b < 0 ? nullptr : bias(one), Int(0));
    product(count, one.wide, one.in, rows(a, a_row), weight(one), one.wide, to, to_row,
            one.b < 0 ? nullptr : bias(one), Int(0));
  }
  void apply_more(const Linear& one, Int count, const T* a, Int a_row, T* to, Int to_row) const {
    add_product(count, one.wide, one.in, rows(a, a_row), weight(one), one.wide, to, to_row);
  }

  // Directions and features of edges [begin, begin + count).
  void describe_edges(Int layer, Int begin, Int count, const Int* receiver, EdgeBlock<T>& block) const {
    const Int K4 = s_.K(), A = s_.attributes, inputs = block.inputs;
    const auto u = values_.at(values_.u, layer), x = values_.at(values_.x, layer);
    for (Int r = 0; r < count; ++r) {
      const Int i = receiver[r], j = graph_.sender[begin + r];
      T* f = block.features + r * inputs;
      T* d = block.direction + 4 * r;
      if (K4) {
        const T* vector = graph_.vector + 3 * (begin + r);
        const T square = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2];
        const T inverse = T(1) / std::max(std::sqrt(square), T(1e-12));
        for (Int k = 0; k < 3; ++k) d[k] = vector[k] * inverse;
        block.square[r] = f[0] = square;
        const T *ui = u(i), *uj = u(j);
        for (Int k = 0; k < K4; k += 4) {
          const V4<T> i0 = load4(ui + k), i1 = load4(ui + K4 + k), i2 = load4(ui + 2 * K4 + k);
          const V4<T> j0 = load4(uj + k), j1 = load4(uj + K4 + k), j2 = load4(uj + 2 * K4 + k);
          store4<T>(f + 1 + k, i0 * d[0] + i1 * d[1] + i2 * d[2]);
          store4<T>(f + 1 + K4 + k, j0 * d[0] + j1 * d[1] + j2 * d[2]);
          store4<T>(f + 1 + 2 * K4 + k, i0 * j0 + i1 * j1 + i2 * j2);
        }
      } else {
        const T *xi = x(i), *xj = x(j);
        for (Int k = 0; k < 3; ++k) d[k] = xi[k] - xj[k] + (graph_.vector ? graph_.vector[3 * (begin + r) + k] : T(0));
        block.square[r] = f[0] = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      }
      const T* attributes = graph_.attributes + (begin + r) * A;
      for (Int k = 0; k < A; ++k) f[1 + 3 * K4 + k] = attributes[k];
    }
  }

  // Their messages, and the coefficients that follow them if it `moves` something.
  void compute_edges(Int layer, Int begin, Int count, const Int* receiver, EdgeBlock<T>& block, bool moves) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, inputs = block.inputs;
    const auto products = values_.at(values_.products, layer);
    describe_edges(layer, begin, count, receiver, block);
    if (kept_) block.at(*kept_, layer, begin, H);
    for (Int r = 0; r < count; ++r) {
      const T *a = products(receiver[r]), *b = products(graph_.sender[begin + r]) + H;
      T* pre = block.first + r * H;
      for (Int k = 0; k < H; k += kWidth<T>) store(pre + k, load(a + k) + load(b + k));
    }
    apply_more(one.edge, count, block.features, inputs, block.first, H);
    activate(block.first, block.first_slope, count * H);
    apply(one.second, count, block.first, H, block.second, H);
    activate(block.second, block.second_slope, count * H);
    if (moves) apply(one.head, count, block.second, H, block.head, block.head_width);
    if (s_.K()) return;
    activate(block.last, block.last_slope, count * H);
    for (Int r = 0; r < count; ++r) block.coefficient[r] = dot(block.last + r * H, weight(one.head_last), H);
  }

  static void activate(T* values, T* slopes, Int count) {
    if (slopes) silu(values, values, slopes, count); else silu(values, values, count);
  }

  T average(Int n) const {  // what sums over the neighbours of a node are multiplied by
    if (s_.neighbours > 0) return T(1 / s_.neighbours);
    return T(1) / T(std::max<Int>(1, graph_.rows[n + 1] - graph_.rows[n]));
  }

  // Sums of messages (H) and of the vectors (3, K4), or the pull (3), that they carry, for nodes [n, n + count).
  void edges_forward(Int layer, Int n, Int count, EdgeBlock<T>& block, T* received, T* carried, bool moves) const {
    const Int H = s_.hidden, K4 = s_.K(), width = K4 ? 3 * K4 : 4;
    std::memset(received, 0, sizeof(T) * size_t(count * H));
    std::memset(carried, 0, sizeof(T) * size_t(count * width));
    Int receiver[kEdges], next = n;
    const auto vectors = values_.at(values_.u, layer);
    const Int end = graph_.rows[n + count];
    for (Int begin = graph_.rows[n]; begin < end; begin += kEdges) {
      const Int size = std::min(kEdges, end - begin);
      for (Int r = 0; r < size; ++r) {
        while (graph_.rows[next + 1] <= begin + r) ++next;
        receiver[r] = next;
      }
      compute_edges(layer, begin, size, receiver, block, moves);
      for (Int r = 0; r < size; ++r) {
        const Int row = receiver[r] - n;
        const T w = graph_.weight ? graph_.weight[begin + r] : T(1);
        add(w, block.second + r * H, received + row * H, H);
        if (!moves) continue;
        const T* d = block.direction + 4 * r;
        T* to = carried + row * width;
        if (!K4) {
          for (Int k = 0; k < 3; ++k) to[k] += w * block.coefficient[r] * d[k];
          continue;
        }
        const T* u = vectors(graph_.sender[begin + r]);
        const T* head = block.head + r * block.head_width;
        for (Int k = 0; k < K4; k += 4) {
          const V4<T> along = w * load4(head + k), across = w * load4(head + K4 + k);
          for (Int a = 0; a < 3; ++a)
            store4<T>(to + a * K4 + k, load4(to + a * K4 + k) + along * d[a] + across * load4(u + a * K4 + k));
        }
      }
    }
    for (Int row = 0; row < count; ++row) {
      const T factor = average(n + row);
      for (Int k = 0; k < H; ++k) received[row * H + k] *= factor;
      for (Int k = 0; k < width; ++k) carried[row * width + k] *= factor;
    }
  }

  const Plan& plan_;
  const Shape& s_;
  const T* w_;
  const Graph<T>& graph_;
  const Values<T>& values_;
  const Messages<T>* kept_;
};

}  // namespace fastegnn
