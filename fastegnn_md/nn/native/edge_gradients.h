// Gradients of what nodes hear of their neighbours, written by hand. Hidden values of edges are computed again, or kept.

#pragma once

#include "network.h"

namespace fastegnn {

// Of a chunk; rows count as in Values. On the way back they pass from a layer's output to its input.
template <class T>
struct Slopes {
  using Array = typename Values<T>::Array;
  Array h, u, x, products, received, carried;  // (H), (3, K4) or v (3), (3), (4H), (H), (3, K4) or (4)
  Array z, s, heard;                           // (C, 3), (C, H), (C, H)
  T *vector, *attributes, *weight;             // of edges, or null where nobody asks

  Slopes(const Plan& plan, Workspace::Frame& frame, const Graph<T>& graph) {
    const Shape& one = plan.shape;
    const Int H = one.hidden, C = one.virtuals, K4 = one.K();
    const auto array = [&](Int width, Int first, Int rows) { return Array{frame.zeros<T>(width * rows), width, first}; };
    const auto of_nodes = [&](Int width) { return array(width, graph.first(), graph.last() - graph.first()); };
    const auto of_systems = [&](Int width) { return array(width, graph.first_system, graph.systems()); };
    h = of_nodes(H), u = of_nodes(K4 ? 3 * K4 : 3), x = of_nodes(3), products = of_nodes(4 * H);
    received = of_nodes(H), carried = of_nodes(K4 ? 3 * K4 : 4);
    z = of_systems(3 * C), s = of_systems(C * H), heard = of_systems(C * H);
    vector = attributes = weight = nullptr;
  }
};

template <class T>
class EdgeGradients : public Network<T> {
 public:
  // `transposes` of the weights; `kept` by the pass forward.
  EdgeGradients(const Plan& plan, const T* weights, const Graph<T>& graph, const Values<T>& values, const T* transposes,
                const Slopes<T>& slopes, const Messages<T>* kept = nullptr)
      : Network<T>(plan, weights, graph, values, kept), t_(transposes), g_(slopes) {}

 protected:
  using Network<T>::plan_;
  using Network<T>::s_;
  using Network<T>::graph_;
  using Network<T>::values_;
  using Network<T>::kept_;

  // Of weights and bias, from inputs a and gradients g of outputs; here and below nothing where `found` is null.
  void weight_gradient(const Linear& one, Int count, const T* a, Int a_row, const T* g, Int g_row, T* found) const {
    if (!found) return;
    add_product(one.in, one.wide, count, columns(a, a_row), g, g_row, found + one.w, one.wide);
    if (one.b >= 0) add_columns(count, one.wide, g, g_row, found + one.b);
  }
  // Of inputs, from those of outputs.
  void input_gradient(const Linear& one, Int count, const T* g, Int g_row, T* to, Int to_row) const {
    product(count, one.tall, one.wide, rows(g, g_row), t_ + one.t, one.tall, to, to_row);
  }
  void add_input_gradient(const Linear& one, Int count, const T* g, Int g_row, T* to, Int to_row) const {
    add_product(count, one.tall, one.wide, rows(g, g_row), t_ + one.t, one.tall, to, to_row);
  }

  // A coefficient of each row, dot(active, last): its gradients to `last` and, through the slope, to what was before.
  void coefficient_gradient(const Linear& last, Int count, const T* of, const T* active, const T* slope, T* to,
                            T* found) const {
    const Int H = s_.hidden;
    const T* weight = this->weight(last);
    for (Int r = 0; r < count; ++r) {
      if (found) add(of[r], active + r * H, found + last.w, H);
      for (Int k = 0; k < H; k += kWidth<T>)
        store(to + r * H + k, of[r] * load(weight + k) * load(slope + r * H + k));
    }
  }

  // `b` and `u` take what comes back to senders: to their products, and to their vectors or positions.
  void edges_backward(Int layer, Int begin, Int end, const typename Values<T>::Array& b,
                      const typename Values<T>::Array& u, T* found, bool moves) const {
    const Layer& one = plan_.layers[layer];
    const Int H = s_.hidden, K4 = s_.K(), A = s_.attributes;
    Workspace::Frame frame(workspace());
    EdgeBlock<T> block(plan_, frame, true);
    const Int head = block.head_width, inputs = block.inputs;
    T *of_head = frame.zeros<T>(kEdges * head), *of_second = frame.take<T>(kEdges * H);
    T *of_first = frame.take<T>(kEdges * H), *of_inputs = frame.take<T>(kEdges * inputs);
    T *of_direction = frame.take<T>(kEdges * 4), *of_coefficient = frame.take<T>(kEdges);
    const auto vectors = values_.at(values_.u, layer);
    Int receiver[kEdges], next = begin;
    const Int last = graph_.rows[end];
    for (Int e = graph_.rows[begin]; e < last; e += kEdges) {
      const Int size = std::min(kEdges, last - e);
      for (Int r = 0; r < size; ++r) {
        while (graph_.rows[next + 1] <= e + r) ++next;
        receiver[r] = next;
      }
      if (kept_) {
        block.at(*kept_, layer, e, H);
        this->describe_edges(layer, e, size, receiver, block);
      } else {
        this->compute_edges(layer, e, size, receiver, block, moves);
      }
      for (Int r = 0; r < size; ++r) {
        const T w = graph_.weight ? graph_.weight[e + r] : T(1);
        const T *g = g_.carried(receiver[r]), *d = block.direction + 4 * r;
        T *of_d = of_direction + 4 * r, of_w = 0;
        if (!moves) {
          of_d[0] = of_d[1] = of_d[2] = 0;
        } else if (K4) {
          const T *own = block.head + r * head, *uj = vectors(graph_.sender[e + r]);
          T *of_own = of_head + r * head, *of_u = u(graph_.sender[e + r]);
          of_d[0] = of_d[1] = of_d[2] = 0;
          for (Int k = 0; k < K4; k += 4) {
            const V4<T> g0 = load4(g + k), g1 = load4(g + K4 + k), g2 = load4(g + 2 * K4 + k);
            const V4<T> j0 = load4(uj + k), j1 = load4(uj + K4 + k), j2 = load4(uj + 2 * K4 + k);
            const V4<T> along = load4(own + k), across = load4(own + K4 + k);
            const V4<T> on_d = g0 * d[0] + g1 * d[1] + g2 * d[2], on_u = g0 * j0 + g1 * j1 + g2 * j2;
            store4<T>(of_own + k, w * on_d);
            store4<T>(of_own + K4 + k, w * on_u);
            of_w += sum4<T>(along * on_d + across * on_u);
            of_d[0] += w * sum4<T>(along * g0), of_d[1] += w * sum4<T>(along * g1), of_d[2] += w * sum4<T>(along * g2);
            store4<T>(of_u + k, load4(of_u + k) + w * across * g0);
            store4<T>(of_u + K4 + k, load4(of_u + K4 + k) + w * across * g1);
            store4<T>(of_u + 2 * K4 + k, load4(of_u + 2 * K4 + k) + w * across * g2);
          }
        } else {
          const T along = g[0] * d[0] + g[1] * d[1] + g[2] * d[2];
          of_coefficient[r] = w * along;
          of_w += block.coefficient[r] * along;
          for (Int k = 0; k < 3; ++k) of_d[k] = w * block.coefficient[r] * g[k];
        }
        if (g_.weight) g_.weight[e + r] += of_w + dot(g_.received(receiver[r]), block.second + r * H, H);
      }
      if (!moves) {
        std::memset(of_second, 0, sizeof(T) * size_t(size * H));
      } else if (K4) {
        weight_gradient(one.head, size, block.second, H, of_head, head, found);
        input_gradient(one.head, size, of_head, head, of_second, H);
      } else {
        coefficient_gradient(one.head_last, size, of_coefficient, block.last, block.last_slope, of_first, found);
        weight_gradient(one.head, size, block.second, H, of_first, H, found);
        input_gradient(one.head, size, of_first, H, of_second, H);
      }
      for (Int r = 0; r < size; ++r) {
        const T w = graph_.weight ? graph_.weight[e + r] : T(1);
        const T *of_sum = g_.received(receiver[r]), *slope = block.second_slope + r * H;
        T* to = of_second + r * H;
        for (Int k = 0; k < H; k += kWidth<T>)
          store(to + k, (load(to + k) + w * load(of_sum + k)) * load(slope + k));
      }
      weight_gradient(one.second, size, block.first, H, of_second, H, found);
      input_gradient(one.second, size, of_second, H, of_first, H);
      multiply(block.first_slope, of_first, size * H);
      weight_gradient(one.edge, size, block.features, inputs, of_first, H, found);
      // Of square and invariants always, of attributes where they are asked for.
      product(size, g_.attributes ? inputs : padded<T>(1 + 3 * K4), H, rows<T>(of_first, H), t_ + one.edge.t, one.edge.tall,
              of_inputs, inputs);
      for (Int r = 0; r < size; ++r) {
        const Int i = receiver[r], j = graph_.sender[e + r];
        add(T(1), of_first + r * H, g_.products(i), H);
        add(T(1), of_first + r * H, b(j), H);
        const T *of = of_inputs + r * inputs, *d = block.direction + 4 * r;
        T* of_d = of_direction + 4 * r;
        if (K4) {
          const T *ui = vectors(i), *uj = vectors(j);
          T *of_ui = g_.u(i), *of_uj = u(j);
          for (Int k = 0; k < K4; k += 4) {
            const V4<T> in = load4(of + 1 + k), out = load4(of + 1 + K4 + k), both = load4(of + 1 + 2 * K4 + k);
            for (Int a = 0; a < 3; ++a) {
              const V4<T> own = load4(ui + a * K4 + k), other = load4(uj + a * K4 + k);
              store4<T>(of_ui + a * K4 + k, load4(of_ui + a * K4 + k) + in * d[a] + both * other);
              store4<T>(of_uj + a * K4 + k, load4(of_uj + a * K4 + k) + out * d[a] + both * own);
              of_d[a] += sum4<T>(in * own + out * other);
            }
          }
          if (g_.vector) {
            const T* vector = graph_.vector + 3 * (e + r);
            const T inverse = T(1) / std::max(std::sqrt(block.square[r]), T(1e-12));
            const T along = of_d[0] * d[0] + of_d[1] * d[1] + of_d[2] * d[2];
            for (Int a = 0; a < 3; ++a)
              g_.vector[3 * (e + r) + a] += (of_d[a] - along * d[a]) * inverse + 2 * of[0] * vector[a];
          }
        } else {
          for (Int a = 0; a < 3; ++a) {
            const T total = of_d[a] + 2 * of[0] * d[a];
            g_.x(i)[a] += total;
            u(j)[a] -= total;
            if (g_.vector) g_.vector[3 * (e + r) + a] += total;
          }
        }
        if (g_.attributes)
          for (Int k = 0; k < A; ++k) g_.attributes[(e + r) * A + k] += of[1 + 3 * K4 + k];
      }
    }
  }

  const T* t_;
  const Slopes<T>& g_;
};

}  // namespace fastegnn
