// Memory that a thread keeps from call to call, and loops that several threads share.

#pragma once

#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>

#include "simd.h"

namespace fastegnn {

// Grows and never shrinks: a roll-out allocates in its first step only. What it gives is uninitialised, and valid until
// the frame it was asked for in ends.
class Workspace {
 public:
  ~Workspace() {
    for (Int k = 0; k < count_; ++k) std::free(blocks_[k].data);
  }

  void* take(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    while (block_ < count_ && used_ + bytes > blocks_[block_].size) ++block_, used_ = 0;
    if (block_ == count_) {
      if (count_ == kBlocks) throw std::bad_alloc();
      const size_t size = bytes > kLeast << count_ ? bytes : kLeast << count_;
      void* data = nullptr;
      if (posix_memalign(&data, 64, size)) throw std::bad_alloc();
      blocks_[count_++] = {data, size};
    }
    void* found = static_cast<char*>(blocks_[block_].data) + used_;
    used_ += bytes;
    return found;
  }

  // What is taken in its life is free afterwards.
  class Frame {
   public:
    explicit Frame(Workspace& of) : of_(of), block_(of.block_), used_(of.used_) {}
    ~Frame() { of_.block_ = block_, of_.used_ = used_; }
    Frame(const Frame&) = delete;

    template <class T>
    T* take(Int count) {
      if (size_t(count) > size_t(-1) / 2 / sizeof(T)) throw std::bad_alloc();
      return static_cast<T*>(of_.take(size_t(count) * sizeof(T)));
    }
    template <class T>
    T* zeros(Int count) {
      T* found = take<T>(count);
      std::memset(found, 0, size_t(count) * sizeof(T));
      return found;
    }

   private:
    Workspace& of_;
    Int block_;
    size_t used_;
  };

 private:
  static constexpr Int kBlocks = 40;
  static constexpr size_t kLeast = size_t(1) << 20;
  struct Block {
    void* data;
    size_t size;
  };
  Block blocks_[kBlocks];
  Int count_ = 0, block_ = 0;
  size_t used_ = 0;
};

inline Workspace& workspace() {
  static thread_local Workspace own;
  return own;
}

// Calls function(part) for part = 0..parts-1, each on a thread of its own where there are threads.
template <class Function>
void in_parallel(Int parts, const Function& function) {
#if defined(_OPENMP)
  if (parts > 1) {
    std::exception_ptr failure;  // none may leave a thread
#pragma omp parallel for schedule(static, 1) num_threads(int(parts))
    for (Int part = 0; part < parts; ++part) {
      try {
        function(part);
      } catch (...) {
#pragma omp critical
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    return;
  }
#endif
  for (Int part = 0; part < parts; ++part) function(part);
}

// What function() returns, or kNoMemory: no exception may leave the library.
constexpr int kNoMemory = -1;
template <class Function>
auto within_memory(const Function& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (const std::length_error&) {  // of a vector
    return kNoMemory;
  }
}

}  // namespace fastegnn
