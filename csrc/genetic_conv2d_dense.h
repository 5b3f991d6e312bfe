// What the two dense plans share: aligned scratch, panels of the codes, and products over positions.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <memory>
#include <new>

#include "genetic_conv2d_positions.h"

namespace gee::conv {

// 64-byte aligned scratch, uninitialised.
template <typename T> class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(static_cast<T*>(::operator new(size_t(size) * sizeof(T) + 64, kAlign))) {}
  T* get() const { return data_.get(); }
  operator T*() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<T, Free> data_;
};

template <typename T> inline constexpr int64_t kLine = 64 / int64_t(sizeof(T));  // elements in 64 bytes
template <typename T> inline constexpr int64_t kPanel = 4 * kLine<T>;            // columns of a panel

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <typename T> int64_t padded(int64_t columns) { return ceil_div(columns, kLine<T>) * kLine<T>; }

// c[r, :] (+)= sum_s a_s[r, :] b_s, over segments s (taps), each with its own rows: no im2col is ever stored.
template <typename T> struct RowProduct {
  int64_t segments, depth;  // depth: columns of a_s, rows of b_s
  const T* const* a;        // [segments, kMaxRows] rows of a_s
  const T* const* b;        // [segments] first line of b_s
  int64_t b_row;            // elements between rows of b_s, which are whole lines
  T* const* c;              // [kMaxRows] rows of c
  int64_t columns;          // of c; b_s may be wider, by less than a line
  bool accumulate;
};

// A product runs from one population to the other: forward from pre to post, transposed from post to pre.
template <typename T> struct Roles {
  int64_t c_from, c_to;
  const T* from;  // [taps, c_from, genes]
  const T* to;    // [taps, c_to, genes]
  int64_t mix_row, mix_column;  // strides of interaction, read as [gene of `from`, gene of `to`]

  Roles(const Shape& s, const Codes<T>& codes, bool transposed)
      : c_from(transposed ? s.c_out : s.c_in), c_to(transposed ? s.c_in : s.c_out),
        from(transposed ? codes.post : codes.pre), to(transposed ? codes.pre : codes.post),
        mix_row(transposed ? 1 : s.genes), mix_column(transposed ? s.genes : 1) {}
};

// codes [rows, genes] with rows padded to whole lines.
template <typename T> Scratch<T> pad_rows(const T* codes, int64_t rows, int64_t genes) {
  const int64_t width = padded<T>(genes);
  Scratch<T> out(rows * width);
  torch::stable::parallel_for(0, rows, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(codes + r * genes, genes, out + r * width);
      std::fill(out + r * width + genes, out + (r + 1) * width, T(0));
    }
  });
  return out;
}

}  // namespace gee::conv
