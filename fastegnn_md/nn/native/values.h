// What FastEGNN is given of a chunk of systems, and what it keeps.

#pragma once

#include <algorithm>

#include "plan.h"
#include "workspace.h"

namespace fastegnn {

// Systems one after the other; pointers and indices count from the first node and the first edge of all of them.
template <class T>
struct Graph {
  Int first_system, last_system;
  const Int* begin;                  // of each system, its first node; one more at the end
  const Int *rows, *sender;          // first edge of each receiver, one more at the end; sender of each edge
  const T* vector;                   // with vectors x_i - x_j (E, 3); without, what is added to it, or null
  const T* attributes;               // (E, A)
  const T* weight;                   // (E), or null

  Int first() const { return begin[first_system]; }
  Int last() const { return begin[last_system]; }
  Int systems() const { return last_system - first_system; }
};

// Values between layers, of nodes: h (H), the products of h (4H), u (3, K4; without vectors v)
// and x (3); of systems: z (C, 3), s (C, H)
// and what s and z add to the messages of virtual nodes (C, H). For gradients those of every layer are kept, and more.
template <class T>
class Values {
 public:
  static Int size(const Plan& plan, Int nodes, Int systems, bool keep) {
    return Values(plan, nullptr, 0, nodes, 0, systems, keep).size_;
  }

  // Of nodes [first, first + nodes) and systems [first_system, first_system + systems).
  Values(const Plan& plan, T* data, Int first, Int nodes, Int first_system, Int systems, bool keep) : keep(keep) {
    const Shape& s = plan.shape;
    const Int H = s.hidden, C = s.virtuals, ends = keep ? s.layers + 1 : 2, each = keep ? s.layers : 0;
    const auto claim = [&](Int width, Int count, Int rows, Int origin) {
      std::vector<Array> found;
      for (Int k = 0; k < count; ++k, size_ += (width * rows + 15) / 16 * 16)
        found.push_back({data == nullptr ? nullptr : data + size_, width, origin});
      return found;
    };
    const auto of_nodes = [&](Int width, Int count) { return claim(width, count, nodes, first); };
    const auto of_systems = [&](Int width, Int count) { return claim(width, count, systems, first_system); };
    h = of_nodes(H, ends), products = of_nodes(4 * H, keep ? s.layers : 2);
    u = of_nodes(s.K() ? 3 * s.K() : 3, s.K() ? ends : 1), x = of_nodes(3, s.K() ? 1 : ends);
    z = of_systems(3 * C, ends), this->s = of_systems(C * H, ends), per_system = of_systems(C * H, keep ? s.layers : 1);
    received = of_nodes(H, each), node_pre = of_nodes(H, each), virtual_pre = of_nodes(C * H, each);
    pull_pre = of_nodes(s.geometry ? C * H : 0, each), real_pre = of_nodes(s.geometry && !s.K() ? C * H : 0, each);
    heard = of_systems(C * H, each), feature_pre = of_systems(C * H, each);
  }

  struct Array {
    T* data;
    Int width, origin;
    T* operator()(Int row) const { return data + (row - origin) * width; }
  };

  bool keep;
  std::vector<Array> h, products, u, x, z, s, per_system;
  std::vector<Array> received, node_pre, virtual_pre, pull_pre, real_pre, heard, feature_pre;

  const Array& at(const std::vector<Array>& arrays, Int layer) const { return arrays[layer % Int(arrays.size())]; }

 private:
  Int size_ = 0;
};

constexpr Int kNodes = 24, kEdges = 48;  // of a block, whose values stay in the first caches

// Hidden values of all edges of a chunk, for gradients: what takes longest to compute again.
template <class T>
struct Messages {
  T *first, *second, *first_slope, *second_slope, *head;  // `first` null where nobody asks for gradients of weights
  Int edges, head_width;

  Messages(const Plan& plan, Workspace::Frame& frame, Int edges, bool weights)
      : edges(edges), head_width(plan.layers[0].head.wide) {
    const Int H = plan.shape.hidden, rows = plan.shape.layers * edges;
    first = weights ? frame.take<T>(rows * H) : nullptr;
    second = frame.take<T>(rows * H), head = frame.take<T>(rows * head_width);
    first_slope = frame.take<T>(rows * H), second_slope = frame.take<T>(rows * H);
  }
};

// Hidden values of a block of edges.
template <class T>
struct EdgeBlock {
  T *features, *first, *second, *head, *last;  // after their activations; before, where slopes are not asked for
  T *first_slope, *second_slope, *last_slope;
  T *direction, *square, *coefficient;  // (3), (1) and (1) of each edge
  Int inputs, head_width;

  EdgeBlock(const Plan& plan, Workspace::Frame& frame, bool slopes) {
    const Shape& s = plan.shape;
    const Int H = s.hidden;
    inputs = padded<T>(s.inputs()), head_width = plan.layers[0].head.wide;
    features = frame.zeros<T>(kEdges * inputs);
    first = frame.take<T>(kEdges * H), second = frame.take<T>(kEdges * H);
    head = frame.zeros<T>(kEdges * head_width), last = s.K() ? nullptr : head;
    direction = frame.take<T>(kEdges * 4), square = frame.take<T>(kEdges), coefficient = frame.take<T>(kEdges);
    first_slope = second_slope = last_slope = nullptr;
    if (slopes) {
      first_slope = frame.take<T>(kEdges * H), second_slope = frame.take<T>(kEdges * H);
      last_slope = s.K() ? nullptr : frame.take<T>(kEdges * H);
    }
  }

  // Have it be where those of edges [begin, …) are kept; of networks with vectors.
  void at(const Messages<T>& kept, Int layer, Int begin, Int H) {
    const Int row = layer * kept.edges + begin;
    if (kept.first) first = kept.first + row * H;
    second = kept.second + row * H, head = kept.head + row * head_width;
    first_slope = kept.first_slope + row * H, second_slope = kept.second_slope + row * H;
  }
};

}  // namespace fastegnn
