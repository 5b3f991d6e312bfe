// Which pixel a tap of a position reads, for the convolution and for its transpose.
#pragma once

#include "genetic_conv2d.h"

namespace gee::conv {

// Positions are counted so that neighbours share their valid taps. Forward: the output pixels in order. Transposed
// (the gradient to x): the input pixels, grouped by their phase (y mod stride, x mod stride), since a tap reaches
// only one phase.
class Positions {
 public:
  struct Position {
    int64_t image, y, x, target;  // y, x: of tap (0, 0); target: the pixel this position writes
  };

  Positions(const Shape& shape, bool transposed) : s_(shape), transposed_(transposed) {
    if (!transposed) {
      count_ = s_.out_pixels();
      return;
    }
    for (int64_t py = 0; py < s_.stride; ++py)
      for (int64_t px = 0; px < s_.stride; ++px) {
        const Phase phase{py, px, steps(s_.height, py), steps(s_.width, px), count_};
        if (phase.rows * phase.columns == 0) continue;
        phases_.push_back(phase);
        count_ += s_.images * phase.rows * phase.columns;
      }
  }

  int64_t count() const { return count_; }

  Position at(int64_t index) const {
    if (!transposed_) {
      const int64_t x = index % s_.out_width, row = index / s_.out_width;
      return {row / s_.out_height, row % s_.out_height * s_.stride - s_.padding, x * s_.stride - s_.padding, index};
    }
    size_t i = phases_.size() - 1;
    while (phases_[i].begin > index) --i;
    const Phase& phase = phases_[i];
    index -= phase.begin;
    const int64_t x = index % phase.columns * s_.stride + phase.x;
    const int64_t row = index / phase.columns;
    const int64_t y = row % phase.rows * s_.stride + phase.y, image = row / phase.rows;
    return {image, y + s_.padding, x + s_.padding, (image * s_.height + y) * s_.width + x};
  }

  // The pixel that `tap` of `p` reads, or -1 for the padding.
  int64_t source(const Position& p, int64_t tap) const {
    const int64_t h = tap / s_.kernel, w = tap % s_.kernel;
    if (!transposed_) return pixel(p.image, p.y + h, p.x + w, s_.height, s_.width);
    const int64_t y = p.y - h, x = p.x - w;
    if (y < 0 || x < 0 || y % s_.stride || x % s_.stride) return -1;
    return pixel(p.image, y / s_.stride, x / s_.stride, s_.out_height, s_.out_width);
  }

 private:
  struct Phase {
    int64_t y, x, rows, columns, begin;
  };

  int64_t steps(int64_t size, int64_t phase) const { return size > phase ? (size - phase - 1) / s_.stride + 1 : 0; }

  static int64_t pixel(int64_t image, int64_t y, int64_t x, int64_t height, int64_t width) {
    return y >= 0 && y < height && x >= 0 && x < width ? (image * height + y) * width + x : -1;
  }

  Shape s_;
  bool transposed_;
  int64_t count_ = 0;
  std::vector<Phase> phases_;
};

}  // namespace gee::conv
