// FastEGNN's sizes, where its weights are within one buffer, and how they get there from torch's parameters.

#pragma once

#include <algorithm>
#include <vector>

#include "products.h"

namespace fastegnn {

struct Shape {
  Int features;    // of a node, F
  Int hidden;      // H, a multiple of 16
  Int layers;      // L
  Int virtuals;    // virtual nodes of a system, C
  Int vectors;     // vector channels K; 0 for a network whose layers move positions
  Int attributes;  // of an edge, A
  Int geometry;    // whether virtual nodes have coordinates
  Int squared;     // |x - z|² or |x - z| as their invariant
  Int energy;      // whether a scalar is made of h after the last layer
  double neighbours;  // by which sums over neighbours are divided; 0 for their number

  Int K() const { return (vectors + 3) / 4 * 4; }              // channels as they are kept, in fours
  Int inputs() const { return 1 + 3 * K() + attributes; }      // of a message: square, invariants, attributes
};

// Offsets of a linear layer: w (in, out), its transpose t (out, in) and b (out); rows are padded to whole vectors.
struct Linear {
  Int in = 0, out = 0, w = -1, t = -1, b = -1, wide = 0, tall = 0;  // wide, tall: padded out and in
};

struct Layer {
  Linear nodes;               // of h: to receivers, to senders, to virtual nodes, and to the mix or the velocity; 4H
  Linear edge, second, head;  // φ1, and what follows a message: coefficients of vectors, or the first layer of φx
  Linear virtual_features, mixing, distance, virtual_second;  // φ2
  Linear pull, pull_last;                                     // φZ
  Linear feature_s, feature_m, feature_second;                // φS
  Linear node_h, node_m, node_v, node_second;                 // φh
  Linear mix, carried;        // with vectors: A and φ''
  Linear head_last, real, real_last, velocity;  // without: φx, φxv and φv
};

// A part of a torch parameter: element (o, i) of it is raw[first + o * total + i], and goes to w[i * wide + o] and to
// t[o * tall + i].
struct Piece {
  Int parameter, first, total, in, out, w, wide, t, tall;
};

class Plan {
 public:
  Shape shape;
  std::vector<Layer> layers;
  Linear embedding, readout, readout_last, start;  // start: features of virtual nodes, (C, H)
  Linear energy, energy_last;                      // of h after the last layer
  std::vector<Piece> pieces;
  Int weights = 0, transposes = 0, parameters = 0;
  bool doubles;

  Plan(const Shape& given, bool doubles) : shape(given), layers(given.layers), doubles(doubles) {
    const Int H = shape.hidden, C = shape.virtuals, K = shape.vectors, K4 = shape.K(), A = shape.attributes;
    vector(start, C * H);
    take_row(start);
    matrix(embedding, shape.features, H), bias(embedding);
    take(embedding), take_bias(embedding);
    for (Layer& one : layers) {
      matrix(one.nodes, H, 4 * H), bias(one.nodes);
      matrix(one.edge, shape.inputs(), H);
      matrix(one.second, H, H), bias(one.second);
      // φ1: [h_i, h_j, square, invariants, attributes]
      const Int width = 2 * H + 1 + 3 * K + A;
      part(one.nodes, 0, width, H, H, 0, 0);
      part(one.nodes, H, width, H, H, 0, H, false);
      part(one.edge, 2 * H, width, 1, H, 0, 0, false);
      for (Int kind = 0; kind < 3 && K; ++kind)
        part(one.edge, 2 * H + 1 + kind * K, width, K, H, 1 + kind * K4, 0, false);
      part(one.edge, 2 * H + 1 + 3 * K, width, A, H, 1 + 3 * K4, 0, false);
      part_bias(one.nodes, H, 0);
      take(one.second), take_bias(one.second);
      // φ2: [h_i, s_c, distance, M_c]
      matrix(one.virtual_features, H, H), bias(one.virtual_features);
      matrix(one.virtual_second, H, H), bias(one.virtual_second);
      const Int heard = shape.geometry ? 2 * H + 1 + C : 2 * H;
      part(one.nodes, 0, heard, H, H, 0, 2 * H);
      part(one.virtual_features, H, heard, H, H, 0, 0, false);
      if (shape.geometry) {
        vector(one.distance, H), matrix(one.mixing, C, H);
        part(one.distance, 2 * H, heard, 1, H, 0, 0, false);
        part(one.mixing, 2 * H + 1, heard, C, H, 0, 0, false);
      }
      take_bias(one.virtual_features);
      take(one.virtual_second), take_bias(one.virtual_second);
      if (shape.geometry) {
        matrix(one.pull, H, H), bias(one.pull), vector(one.pull_last, H);
        take(one.pull), take_bias(one.pull), take_row(one.pull_last);
      }
      matrix(one.feature_s, H, H), bias(one.feature_s), matrix(one.feature_m, H, H);
      matrix(one.feature_second, H, H), bias(one.feature_second);
      part(one.feature_s, 0, 2 * H, H, H, 0, 0);
      part(one.feature_m, H, 2 * H, H, H, 0, 0, false);
      take_bias(one.feature_s), take(one.feature_second), take_bias(one.feature_second);
      // φh: [h, received, heard of virtual nodes]
      matrix(one.node_h, H, H), bias(one.node_h), matrix(one.node_m, H, H), matrix(one.node_v, C * H, H);
      matrix(one.node_second, H, H), bias(one.node_second);
      part(one.node_h, 0, (2 + C) * H, H, H, 0, 0);
      part(one.node_m, H, (2 + C) * H, H, H, 0, 0, false);
      part(one.node_v, 2 * H, (2 + C) * H, C * H, H, 0, 0, false);
      take_bias(one.node_h), take(one.node_second), take_bias(one.node_second);
      if (K) {
        matrix(one.head, H, 2 * K4);
        part(one.head, 0, H, H, K, 0, 0);
        part(one.head, K * H, H, H, K, 0, K4, false);
        if (shape.geometry) {
          matrix(one.carried, H, K4), bias(one.carried);
          part(one.carried, 0, H, H, K, 0, 0), part_bias(one.carried, K, 0);
        }
        part(one.nodes, 0, H, H, H, 0, 3 * H), part_bias(one.nodes, H, 3 * H);
        // A_kl is kept at l * K4 + k, so that one channel's share in all others is in one place.
        matrix(one.mix, H, K * K4), bias(one.mix);
        for (Int l = 0; l < K; ++l) part(one.mix, l * H, K * H, H, K, 0, l * K4, l == 0);
        for (Int l = 0; l < K; ++l) part_row(one.mix.b + l * K4, l, K, K, l == 0);
      } else {
        matrix(one.head, H, H), bias(one.head), vector(one.head_last, H);
        take(one.head), take_bias(one.head), take_row(one.head_last);
        if (shape.geometry) {
          matrix(one.real, H, H), bias(one.real), vector(one.real_last, H);
          take(one.real), take_bias(one.real), take_row(one.real_last);
        }
        part(one.nodes, 0, H, H, H, 0, 3 * H), part_bias(one.nodes, H, 3 * H);
        vector(one.velocity, H), bias(one.velocity, 1);
        take_row(one.velocity), part_bias(one.velocity, 1, 0);
      }
    }
    if (K) {
      matrix(readout, H, H), bias(readout), matrix(readout_last, H, 2 * K4), bias(readout_last);
      take(readout), take_bias(readout);
      for (Int k = 0; k < 2; ++k) part(readout_last, k * K * H, H, H, K, 0, k * K4, k == 0);
      for (Int k = 0; k < 2; ++k) part_row(readout_last.b + k * K4, k * K, 1, K, k == 0);
    }
    if (shape.energy) {
      matrix(energy, H, H), bias(energy), vector(energy_last, H), bias(energy_last, 1);
      take(energy), take_bias(energy), take_row(energy_last), part_bias(energy_last, 1, 0);
    }
  }

  Plan(const Plan&) = delete;

  // From torch's parameters to a buffer of `weights` values, and `transposes` after them; padding is not touched.
  template <class T>
  void pack(const T* const* raw, T* buffer, bool transposed) const {
    for (const Piece& one : pieces) {
      const T* from = raw[one.parameter] + one.first;
      for (Int begin = 0; begin < one.out; begin += kStrip) {
        const Int end = std::min(one.out, begin + kStrip);
        for (Int i = 0; i < one.in; ++i)
          for (Int o = begin; o < end; ++o) buffer[one.w + i * one.wide + o] = from[o * one.total + i];
      }
      if (!transposed || one.t < 0) continue;
      for (Int o = 0; o < one.out; ++o)
        std::memcpy(buffer + weights + one.t + o * one.tall, from + o * one.total, sizeof(T) * size_t(one.in));
    }
  }

  // Gradients of the weights, added to those of torch's parameters.
  template <class T>
  void unpack(const T* buffer, T* const* raw) const {
    for (const Piece& one : pieces) {
      if (raw[one.parameter] == nullptr) continue;
      T* to = raw[one.parameter] + one.first;
      for (Int begin = 0; begin < one.out; begin += kStrip) {
        const Int end = std::min(one.out, begin + kStrip);
        for (Int i = 0; i < one.in; ++i)
          for (Int o = begin; o < end; ++o) to[o * one.total + i] += buffer[one.w + i * one.wide + o];
      }
    }
  }

 private:
  static constexpr Int kStrip = 16;  // rows of a parameter that are read at a time

  Int wide(Int size) const { return doubles ? padded<double>(size) : padded<float>(size); }

  Int reserve(Int& where, Int size) {
    const Int begin = where;
    where += (size + 15) / 16 * 16;
    return begin;
  }

  void matrix(Linear& one, Int in, Int out) {
    one.in = in, one.out = out, one.wide = wide(out), one.tall = wide(in);
    one.w = reserve(weights, in * one.wide);
    one.t = reserve(transposes, one.wide * one.tall);
  }

  void vector(Linear& one, Int size) {
    one.in = 1, one.out = size, one.wide = wide(size);
    one.w = reserve(weights, one.wide);
  }

  void bias(Linear& one) { one.b = reserve(weights, one.wide); }
  void bias(Linear& one, Int size) { one.b = reserve(weights, wide(size)); }

  // A part of the next parameter, or of the same one as before.
  void part(const Linear& one, Int first, Int total, Int in, Int out, Int row, Int column, bool next = true) {
    if (next) ++parameters;
    pieces.push_back({parameters - 1, first, total, in, out, one.w + row * one.wide + column, one.wide,
                      one.t < 0 ? -1 : one.t + column * one.tall + row, one.tall});
  }
  void part_row(Int to, Int first, Int total, Int out, bool next) {
    if (next) ++parameters;
    pieces.push_back({parameters - 1, first, total, 1, out, to, 0, -1, 0});
  }
  void part_bias(const Linear& one, Int size, Int column) { part_row(one.b + column, 0, 1, size, true); }
  void take(const Linear& one) { part(one, 0, one.in, one.in, one.out, 0, 0); }
  void take_bias(const Linear& one) { part_bias(one, one.out, 0); }
  void take_row(const Linear& one) { part_row(one.w, 0, 1, one.out, true); }  // (rows, columns) as one row
};

}  // namespace fastegnn
