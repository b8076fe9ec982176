// Messages of edges and their sums, the formulas of message_sums.py. Every thread takes a range of edges, a block of
// them at a time, so that the hidden values of an edge live in a second-level cache and nowhere else.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kBlock = 512;
// Gradients of senders are summed by every thread for itself; so much memory may that take.
constexpr int64_t kPrivateBytes = int64_t(1) << 30;

double exponential(double x) { return std::exp(x); }

// Written so that compilers vectorise it: 2^n exp(r), |r| <= ln(2)/2, with the Taylor series of exp to r^7, whose
// remainder is 5e-9. NaN stays NaN.
float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts: n times the first is exact
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

template <typename T>
void silu(const T* from, T* to, int64_t count) {
  for (int64_t k = 0; k < count; ++k) to[k] = from[k] / (T(1) + exponential(-from[k]));
}

// gradient <- gradient * silu'(x)
template <typename T>
void silu_backward(const T* x, T* gradient, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    const T s = T(1) / (T(1) + exponential(-x[k]));
    gradient[k] *= s * (T(1) + x[k] * (T(1) - s));
  }
}

template <typename T>
T dot(const T* a, const T* b, int64_t count) {
  T total = 0;
  for (int64_t k = 0; k < count; ++k) total += a[k] * b[k];
  return total;
}

template <typename T>
void add(T factor, const T* from, T* to, int64_t count) {
  for (int64_t k = 0; k < count; ++k) to[k] += factor * from[k];
}

template <typename T>
T* data(const Tensor& tensor) {
  return tensor.data_ptr<T>();
}

struct Inputs {
  Tensor at_receiver, at_sender, receiver, sender, features;
  OptionalTensor weight;
  Tensor column, second, second_bias;
  OptionalTensor gate, gate_bias, third, third_bias;
  Tensor head;

  int64_t nodes() const { return at_receiver.size(0); }
  int64_t edges() const { return receiver.size(0); }
  int64_t width() const { return at_receiver.size(1); }
};

// Rows are read and written without a further look.
void check(const Inputs& inputs) {
  if (inputs.edges() == 0) return;
  for (const Tensor& index : {inputs.receiver, inputs.sender}) {
    const auto [low, high] = at::aminmax(index);
    TORCH_CHECK_INDEX(low.item<int64_t>() >= 0 && high.item<int64_t>() < inputs.nodes(),
                      "edges name nodes from ", low.item<int64_t>(), " to ", high.item<int64_t>(), "; there are ",
                      inputs.nodes());
  }
}

// Hidden values of a block of edges. Rows are read through pointers: a look into a Tensor costs as much as a short row.
template <typename T>
class Block {
 public:
  explicit Block(const Inputs& inputs)
      : inputs_(inputs),
        width_(inputs.width()),
        features_(inputs.features.size(1)),
        at_receiver_(data<T>(inputs.at_receiver)),
        at_sender_(data<T>(inputs.at_sender)),
        feature_(data<T>(inputs.features)),
        weight_(inputs.weight ? data<T>(*inputs.weight) : nullptr),
        column_(data<T>(inputs.column)),
        receiver_(data<int64_t>(inputs.receiver)),
        sender_(data<int64_t>(inputs.sender)),
        first_pre_(buffer(width_)),
        first_(buffer(width_)),
        second_pre_(buffer(width_)),
        ungated_(buffer(width_)),
        gated_(inputs.gate ? buffer(width_) : ungated_),
        gate_(buffer(1)),
        third_pre_(buffer(inputs.third ? inputs.third->size(1) : 0)),
        third_(inputs.third ? buffer(inputs.third->size(1)) : gated_) {}

  void compute(int64_t begin, int64_t count) {
    begin_ = begin, count_ = count;
    T* pre = data<T>(first_pre_);
    for (int64_t row = 0; row < count; ++row) {
      const T* a = at_receiver_ + receiver(row) * width_;
      const T* b = at_sender_ + sender(row) * width_;
      T* out = pre + row * width_;
      for (int64_t k = 0; k < width_; ++k) out[k] = a[k] + b[k];
      for (int64_t f = 0; f < features_; ++f) add(feature(row)[f], column_ + f * width_, out, width_);
    }
    silu(pre, data<T>(first_), count * width_);
    Tensor out = rows(second_pre_);
    at::addmm_out(out, inputs_.second_bias, rows(first_), inputs_.second);
    silu(data<T>(second_pre_), data<T>(ungated_), count * width_);
    if (inputs_.gate) {
      const T bias = *data<T>(*inputs_.gate_bias);
      const T* weights = data<T>(*inputs_.gate);
      const T* from = data<T>(ungated_);
      T *to = data<T>(gated_), *gate = data<T>(gate_);
      for (int64_t row = 0; row < count; ++row) {
        gate[row] = T(1) / (T(1) + exponential(-(dot(from + row * width_, weights, width_) + bias)));
        for (int64_t k = row * width_; k < (row + 1) * width_; ++k) to[k] = gate[row] * from[k];
      }
    }
    if (inputs_.third) {
      out = rows(third_pre_);
      at::addmm_out(out, *inputs_.third_bias, message(), *inputs_.third);
      silu(data<T>(third_pre_), data<T>(third_), out.numel());
    }
  }

  Tensor first_pre() const { return rows(first_pre_); }
  Tensor first() const { return rows(first_); }
  Tensor second_pre() const { return rows(second_pre_); }
  Tensor ungated() const { return rows(ungated_); }
  Tensor gate() const { return rows(gate_); }
  Tensor message() const { return rows(gated_); }
  Tensor third_pre() const { return rows(third_pre_); }
  Tensor last() const { return rows(third_); }
  int64_t receiver(int64_t row) const { return receiver_[begin_ + row]; }
  int64_t sender(int64_t row) const { return sender_[begin_ + row]; }
  T weight(int64_t row) const { return weight_ ? weight_[begin_ + row] : T(1); }
  const T* feature(int64_t row) const { return feature_ + (begin_ + row) * features_; }

 private:
  Tensor rows(const Tensor& buffer) const { return buffer.narrow(0, 0, count_); }
  Tensor buffer(int64_t width) const { return at::empty({kBlock, width}, inputs_.at_receiver.options()); }

  const Inputs& inputs_;
  int64_t width_, features_, begin_ = 0, count_ = 0;
  const T *at_receiver_, *at_sender_, *feature_, *weight_, *column_;
  const int64_t *receiver_, *sender_;
  Tensor first_pre_, first_, second_pre_, ungated_, gated_, gate_, third_pre_, third_;
};

// Bounds of the edges of each thread. A receiver belongs to one thread, so that sums need no lock; edges that are not
// sorted by receiver are left to a single thread.
std::vector<int64_t> ranges(const Inputs& inputs, int64_t threads) {
  const int64_t* receiver = data<int64_t>(inputs.receiver);
  const int64_t edges = inputs.edges();
  std::vector<int64_t> bounds{0};
  if (std::is_sorted(receiver, receiver + edges)) {
    for (int64_t k = 1; k < threads; ++k) {
      int64_t bound = std::max(edges * k / threads, bounds.back());
      while (bound > bounds.back() && bound < edges && receiver[bound] == receiver[bound - 1]) ++bound;
      bounds.push_back(bound);
    }
  }
  bounds.push_back(edges);
  return bounds;
}

template <typename Function>
void in_blocks(int64_t begin, int64_t end, const Function& function) {
  for (; begin < end; begin += kBlock) function(begin, std::min(kBlock, end - begin));
}

template <typename T>
void forward_as(const Inputs& inputs, const Tensor& sums, const Tensor& outputs) {
  const auto bounds = ranges(inputs, at::get_num_threads());
  const int64_t width = inputs.width();
  at::parallel_for(0, bounds.size() - 1, 1, [&](int64_t first, int64_t last) {
    at::NoGradGuard without_gradient;
    T* total = data<T>(sums);
    Block<T> block(inputs);
    in_blocks(bounds[first], bounds[last], [&](int64_t begin, int64_t count) {
      block.compute(begin, count);
      const T* message = data<T>(block.message());
      for (int64_t row = 0; row < count; ++row)
        add(block.weight(row), message + row * width, total + block.receiver(row) * width, width);
      Tensor part = outputs.narrow(0, begin, count);
      at::mm_out(part, block.last(), inputs.head);
    });
  });
}

// Gradients of what all edges share: sums over edges, which every thread makes for itself.
struct Shared {
  Tensor at_sender, column, second, second_bias, gate, gate_bias, third, third_bias, head;

  std::array<Tensor*, 9> all() {
    return {&at_sender, &column, &second, &second_bias, &gate, &gate_bias, &third, &third_bias, &head};
  }
};

struct Gradients {
  Tensor at_receiver, features, weight;
  Shared shared;
};

template <typename T>
void backward_as(const Inputs& inputs, const Tensor& of_sums, const Tensor& of_outputs, Gradients& found) {
  const int64_t width = inputs.width();
  const int64_t own = std::max<int64_t>(1, inputs.nodes() * width * int64_t(sizeof(T)));
  const auto bounds =
      ranges(inputs, std::clamp<int64_t>(kPrivateBytes / own, 1, at::get_num_threads()));
  const int64_t threads = bounds.size() - 1;
  std::vector<Shared> of_thread(threads);
  const Tensor second_t = inputs.second.t(), head_t = inputs.head.t(), column_t = inputs.column.t();
  at::parallel_for(0, threads, 1, [&](int64_t thread, int64_t end) {
    at::NoGradGuard without_gradient;
    for (; thread < end; ++thread) {
      Shared& mine = of_thread[thread];
      for (size_t k = 0; k < mine.all().size(); ++k)
        if (const Tensor& one = *found.shared.all()[k]; one.defined()) *mine.all()[k] = at::zeros_like(one);
      Block<T> block(inputs);
      in_blocks(bounds[thread], bounds[thread + 1], [&](int64_t begin, int64_t count) {
        block.compute(begin, count);
        const Tensor given = of_outputs.narrow(0, begin, count);
        mine.head.addmm_(block.last().t(), given);
        Tensor of_message = at::mm(given, head_t);
        if (inputs.third) {
          silu_backward(data<T>(block.third_pre()), data<T>(of_message), of_message.numel());
          mine.third.addmm_(block.message().t(), of_message);
          mine.third_bias.add_(of_message.sum(0));
          of_message = at::mm(of_message, inputs.third->t());
        }
        T* of_row = data<T>(of_message);
        const T *message = data<T>(block.message()), *ungated = data<T>(block.ungated()), *gate = data<T>(block.gate());
        for (int64_t row = 0; row < count; ++row) {
          T* gradient = of_row + row * width;
          const T* of_sum = data<T>(of_sums) + block.receiver(row) * width;
          if (inputs.weight) data<T>(found.weight)[begin + row] = dot(of_sum, message + row * width, width);
          add(block.weight(row), of_sum, gradient, width);
          if (inputs.gate) {
            const T* weights = data<T>(*inputs.gate);
            const T* in = ungated + row * width;
            const T slope = dot(static_cast<const T*>(gradient), in, width) * gate[row] * (T(1) - gate[row]);
            add(slope, in, data<T>(mine.gate), width);
            *data<T>(mine.gate_bias) += slope;
            for (int64_t k = 0; k < width; ++k) gradient[k] = gate[row] * gradient[k] + slope * weights[k];
          }
        }
        silu_backward(data<T>(block.second_pre()), of_row, of_message.numel());
        mine.second.addmm_(block.first().t(), of_message);
        mine.second_bias.add_(of_message.sum(0));
        Tensor of_first = at::mm(of_message, second_t);
        silu_backward(data<T>(block.first_pre()), data<T>(of_first), of_first.numel());
        mine.column.addmm_(inputs.features.narrow(0, begin, count).t(), of_first);
        Tensor of_features = found.features.narrow(0, begin, count);
        at::mm_out(of_features, of_first, column_t);
        const T* gradient = data<T>(of_first);
        T *to_receiver = data<T>(found.at_receiver), *to_sender = data<T>(mine.at_sender);
        for (int64_t row = 0; row < count; ++row, gradient += width) {
          add(T(1), gradient, to_receiver + block.receiver(row) * width, width);
          add(T(1), gradient, to_sender + block.sender(row) * width, width);
        }
      });
    }
  });
  // In the order of the threads, so that the same call gives the same bits.
  for (Shared& one : of_thread)
    for (size_t k = 0; k < one.all().size(); ++k)
      if (one.all()[k]->defined()) found.shared.all()[k]->add_(*one.all()[k]);
}

Tensor forward(const Tensor& at_receiver, const Tensor& at_sender, const Tensor& receiver, const Tensor& sender,
               const Tensor& features, const OptionalTensor& weight, const Tensor& column, const Tensor& second,
               const Tensor& second_bias, const OptionalTensor& gate, const OptionalTensor& gate_bias,
               const OptionalTensor& third, const OptionalTensor& third_bias, const Tensor& head,
               const Tensor& sums) {
  const Inputs inputs{at_receiver, at_sender, receiver, sender, features, weight, column,
                      second, second_bias, gate, gate_bias, third, third_bias, head};
  check(inputs);
  const Tensor outputs = at::empty({receiver.size(0), head.size(1)}, at_receiver.options());
  AT_DISPATCH_FLOATING_TYPES(at_receiver.scalar_type(), "message_sums",
                             [&] { forward_as<scalar_t>(inputs, sums, outputs); });
  return outputs;
}

std::vector<Tensor> backward(const Tensor& at_receiver, const Tensor& at_sender, const Tensor& receiver,
                             const Tensor& sender, const Tensor& features, const OptionalTensor& weight,
                             const Tensor& column, const Tensor& second, const Tensor& second_bias,
                             const OptionalTensor& gate, const OptionalTensor& gate_bias,
                             const OptionalTensor& third, const OptionalTensor& third_bias, const Tensor& head,
                             const Tensor& of_sums, const Tensor& of_outputs) {
  const Inputs inputs{at_receiver, at_sender, receiver, sender, features, weight, column,
                      second, second_bias, gate, gate_bias, third, third_bias, head};
  check(inputs);
  const auto zeros = [](const OptionalTensor& one) {
    return one ? at::zeros(one->sizes(), one->options()) : Tensor();
  };
  Gradients found{zeros(at_receiver), zeros(features), zeros(weight),
                  {zeros(at_sender), zeros(column), zeros(second), zeros(second_bias), zeros(gate), zeros(gate_bias),
                   zeros(third), zeros(third_bias), zeros(head)}};
  AT_DISPATCH_FLOATING_TYPES(at_receiver.scalar_type(), "message_sums_backward",
                             [&] { backward_as<scalar_t>(inputs, of_sums, of_outputs, found); });
  const Shared& shared = found.shared;
  std::vector<Tensor> all{found.at_receiver, shared.at_sender, found.features, found.weight, shared.column,
                          shared.second, shared.second_bias, shared.gate, shared.gate_bias, shared.third,
                          shared.third_bias, shared.head};
  for (Tensor& one : all)
    if (!one.defined()) one = at::empty({0}, at_receiver.options());  // for an input that was not given
  return all;
}

}  // namespace

TORCH_LIBRARY(fastegnn_md, library) {
  library.def(
      "message_sums(Tensor at_receiver, Tensor at_sender, Tensor receiver, Tensor sender, Tensor features, "
      "Tensor? weight, Tensor column, Tensor second, Tensor second_bias, Tensor? gate, Tensor? gate_bias, "
      "Tensor? third, Tensor? third_bias, Tensor head, Tensor(a!) sums) -> Tensor",
      &forward);
  library.def(
      "message_sums_backward(Tensor at_receiver, Tensor at_sender, Tensor receiver, Tensor sender, "
      "Tensor features, Tensor? weight, Tensor column, Tensor second, Tensor second_bias, Tensor? gate, "
      "Tensor? gate_bias, Tensor? third, Tensor? third_bias, Tensor head, Tensor of_sums, Tensor of_outputs) "
      "-> Tensor[]",
      &backward);
}
