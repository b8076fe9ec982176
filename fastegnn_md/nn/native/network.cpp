// Functions that Python calls; fastegnn_md/nn/native/network.py says what they are given.

#include "gradients.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace fastegnn {

template class Network<float>;
template class Network<double>;
template class Gradients<float>;
template class Gradients<double>;

namespace {

// Systems that a thread takes at a time: their values and the weights stay in a second-level cache.
constexpr Int kChunk = 96;
// Work below which several threads cost more than they save, in edges; a node is about eight.
constexpr Int kShared = 1500;

struct Call {
  Int nodes, systems, edges, threads;
  const Int *begin, *receiver, *sender;
  const void *features, *x, *u;  // (N, F), (N, 3), and (N, K, 3) or (N, 3)
  const void *attributes, *vector, *weight;
  void *h_out, *x_out, *z_out, *s_out, *change;
  void* values;  // of fastegnn_values; null where no gradient is wanted
};

struct Back {
  const void *h, *x, *z, *s, *change;                         // gradients of outputs, or null
  void *of_x, *of_u, *of_attributes, *of_vector, *of_weight;  // of inputs; the last three may be null
  void* const* parameters;                          // of the parameters, to be added to; null where nobody asks
};

struct Chunk {
  Int first, last;  // systems
  Int offset;       // of its values
};

template <class T>
std::vector<Chunk> chunks_of(const Plan& plan, const Call& call, bool keep, Int* total = nullptr) {
  std::vector<Chunk> chunks;
  Int offset = 0;
  for (Int first = 0; first < call.systems;) {
    Int last = first + 1;
    while (last < call.systems && call.begin[last + 1] - call.begin[first] <= kChunk) ++last;
    chunks.push_back({first, last, offset});
    const Int nodes = call.begin[last] - call.begin[first];
    if (keep) offset += Values<T>::size(plan, nodes, last - first, true);
    first = last;
  }
  if (total) *total = offset;
  return chunks;
}

// First edge of each receiver; false if edges are not sorted by receiver, or name nodes that are not there.
bool rows_of(const Call& call, Int* rows) {
  Int node = 0;
  rows[0] = 0;
  for (Int e = 0; e < call.edges; ++e) {
    const Int i = call.receiver[e], j = call.sender[e];
    if (i < node || i >= call.nodes || j < 0 || j >= call.nodes) return false;
    for (; node < i; ++node) rows[node + 1] = e;
  }
  for (; node < call.nodes; ++node) rows[node + 1] = call.edges;
  return true;
}

// Vectors (N, K, 3) as torch has them, to rows of K4 for each of three components, and back.
template <class T>
void to_fours(const Shape& s, Int first, Int last, const T* from, const typename Values<T>::Array& to) {
  const Int K = s.vectors, K4 = s.K();
  for (Int n = first; n < last; ++n)
    for (Int d = 0; d < 3; ++d)
      for (Int k = 0; k < K4; ++k) to(n)[d * K4 + k] = k < K ? from[(n * K + k) * 3 + d] : T(0);
}

template <class T>
void from_fours(const Shape& s, Int first, Int last, const typename Values<T>::Array& from, T* to) {
  const Int K = s.vectors, K4 = s.K();
  for (Int n = first; n < last; ++n)
    for (Int k = 0; k < K; ++k)
      for (Int d = 0; d < 3; ++d) to[(n * K + k) * 3 + d] = from(n)[d * K4 + k];
}

template <class T>
void copy(Int first, Int last, const void* from, const typename Values<T>::Array& to) {
  if (from == nullptr || first == last) return;
  std::memcpy(to(first), static_cast<const T*>(from) + first * to.width, sizeof(T) * size_t((last - first) * to.width));
}

template <class T>
void copy(Int first, Int last, const typename Values<T>::Array& from, void* to) {
  if (to == nullptr || first == last) return;
  std::memcpy(static_cast<T*>(to) + first * from.width, from(first), sizeof(T) * size_t((last - first) * from.width));
}

template <class T>
void fill_first(const Plan& plan, const Call& call, const Graph<T>& graph, const Values<T>& values) {
  copy<T>(graph.first(), graph.last(), call.x, values.x[0]);
  if (plan.shape.vectors)
    to_fours(plan.shape, graph.first(), graph.last(), static_cast<const T*>(call.u), values.u[0]);
  else
    copy<T>(graph.first(), graph.last(), call.u, values.u[0]);
}

template <class T>
void copy_last(const Plan& plan, const Call& call, const Graph<T>& graph, const Values<T>& values) {
  const Int L = plan.shape.layers, first = graph.first(), last = graph.last();
  copy<T>(first, last, values.at(values.h, L), call.h_out);
  if (!plan.shape.vectors) copy<T>(first, last, values.at(values.x, L), call.x_out);
  copy<T>(graph.first_system, graph.last_system, values.at(values.z, L), call.z_out);
  copy<T>(graph.first_system, graph.last_system, values.at(values.s, L), call.s_out);
}

template <class T>
Graph<T> graph_of(const Call& call, const Chunk& chunk, const Int* rows) {
  return {chunk.first, chunk.last, call.begin, rows, call.sender, static_cast<const T*>(call.vector),
          static_cast<const T*>(call.attributes), static_cast<const T*>(call.weight)};
}

// Calls run(chunk, threads, thread) for every chunk: several at a time where there are enough, else one after the other,
// each with all threads.
template <class Run>
void for_chunks(const Call& call, const std::vector<Chunk>& chunks, const Run& run) {
  if (Int(chunks.size()) >= call.threads && call.threads > 1) {
    in_parallel(call.threads, [&](Int thread) {
      for (size_t k = size_t(thread); k < chunks.size(); k += size_t(call.threads)) run(chunks[k], Int(1), thread);
    });
    return;
  }
  const Int threads = call.edges + 8 * call.nodes < kShared ? 1 : call.threads;
  for (const Chunk& chunk : chunks) run(chunk, threads, Int(0));
}

template <class T>
int forward(const Plan& plan, const T* weights, const Call& call) {
  Workspace::Frame frame(workspace());
  Int* rows = frame.take<Int>(call.nodes + 1);
  if (!rows_of(call, rows)) return 1;
  const bool keep = call.values != nullptr;
  for_chunks(call, chunks_of<T>(plan, call, keep), [&](const Chunk& chunk, Int threads, Int) {
    Workspace::Frame own(workspace());
    const Graph<T> graph = graph_of<T>(call, chunk, rows);
    const Int nodes = graph.last() - graph.first();
    T* data = keep ? static_cast<T*>(call.values) + chunk.offset
                   : own.take<T>(Values<T>::size(plan, nodes, graph.systems(), false));
    const Values<T> values(plan, data, graph.first(), nodes, chunk.first, graph.systems(), keep);
    fill_first(plan, call, graph, values);
    Network<T>(plan, weights, graph, values)
        .forward(threads, static_cast<const T*>(call.features), static_cast<T*>(call.change));
    copy_last(plan, call, graph, values);
  });
  return 0;
}

template <class T>
void backward(const Plan& plan, const T* weights, const Call& call, const Back& back) {
  Workspace::Frame frame(workspace());
  const Shape& s = plan.shape;
  Int* rows = frame.take<Int>(call.nodes + 1);
  rows_of(call, rows);
  std::vector<T*> found;
  for (Int k = 0; k < call.threads; ++k) found.push_back(frame.zeros<T>(plan.weights));
  for_chunks(call, chunks_of<T>(plan, call, true), [&](const Chunk& chunk, Int threads, Int thread) {
    Workspace::Frame own(workspace());
    const Graph<T> graph = graph_of<T>(call, chunk, rows);
    const Int first = graph.first(), last = graph.last();
    const Values<T> values(plan, static_cast<T*>(call.values) + chunk.offset, first, last - first, chunk.first,
                           graph.systems(), true);
    Slopes<T> slopes(plan, own, graph);
    slopes.vector = static_cast<T*>(back.of_vector), slopes.attributes = static_cast<T*>(back.of_attributes);
    slopes.weight = static_cast<T*>(back.of_weight);
    copy<T>(first, last, back.h, slopes.h);
    if (!s.vectors) copy<T>(first, last, back.x, slopes.x);
    copy<T>(chunk.first, chunk.last, back.z, slopes.z);
    copy<T>(chunk.first, chunk.last, back.s, slopes.s);
    Gradients<T>(plan, weights, graph, values, weights + plan.weights, slopes)
        .backward(threads, static_cast<const T*>(back.change), static_cast<const T*>(call.features), &found[thread]);
    copy<T>(first, last, slopes.x, back.of_x);
    if (s.vectors) from_fours(s, first, last, slopes.u, static_cast<T*>(back.of_u));
    else copy<T>(first, last, slopes.u, back.of_u);
  });
  for (Int k = 1; k < call.threads; ++k) add(T(1), found[k], found[0], plan.weights);
  plan.unpack(found[0], reinterpret_cast<T* const*>(back.parameters));
}

}  // namespace
}  // namespace fastegnn

using namespace fastegnn;

EXPORT void* fastegnn_plan(const Int* sizes, double neighbours, int doubles) {
  const Shape shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], neighbours};
  try {
    return new Plan(shape, doubles != 0);
  } catch (const std::exception&) {  // for want of memory
    return nullptr;
  }
}

EXPORT void fastegnn_plan_free(void* plan) { delete static_cast<Plan*>(plan); }

// Numbers of values in a buffer of weights, of their transposes after them, and of parameters.
EXPORT void fastegnn_plan_sizes(const void* plan, Int* sizes) {
  const Plan& one = *static_cast<const Plan*>(plan);
  sizes[0] = one.weights, sizes[1] = one.transposes, sizes[2] = one.parameters;
}

EXPORT void fastegnn_pack(const void* plan, const void* const* parameters, void* buffer, int transposed) {
  const Plan& one = *static_cast<const Plan*>(plan);
  if (one.doubles)
    one.pack(reinterpret_cast<const double* const*>(parameters), static_cast<double*>(buffer), transposed != 0);
  else
    one.pack(reinterpret_cast<const float* const*>(parameters), static_cast<float*>(buffer), transposed != 0);
}

// Number of values that gradients need to be kept. Here and below -1 where memory runs out.
EXPORT Int fastegnn_values(const void* plan, const Call* call) {
  const Plan& one = *static_cast<const Plan*>(plan);
  return within_memory([&]() -> Int {
    Int total = 0;
    if (one.doubles) chunks_of<double>(one, *call, true, &total); else chunks_of<float>(one, *call, true, &total);
    return total;
  });
}

// 1 where edges are not sorted by receiver or name nodes that are not there; else 0.
EXPORT int fastegnn_forward(const void* plan, const void* weights, const Call* call) {
  const Plan& one = *static_cast<const Plan*>(plan);
  return within_memory([&] {
    return one.doubles ? forward(one, static_cast<const double*>(weights), *call)
                       : forward(one, static_cast<const float*>(weights), *call);
  });
}

// After a call of fastegnn_forward with the same values; weights are packed with their transposes.
EXPORT int fastegnn_backward(const void* plan, const void* weights, const Call* call, const Back* back) {
  const Plan& one = *static_cast<const Plan*>(plan);
  return within_memory([&] {
    if (one.doubles) backward(one, static_cast<const double*>(weights), *call, *back);
    else backward(one, static_cast<const float*>(weights), *call, *back);
    return 0;
  });
}
