// Event-driven convolution on the CPU: only non-zero inputs are visited.
//
// y is made one block of output channels (256 bytes a position) at a time. For a block, slabs of W
// [taps, kSlabChannels inputs, block] (288 KiB for a 3x3 kernel, so that one stays in a second-level cache) are
// decoded one after the other, and every position gathers the slab rows of the events in its receptive field into
// registers: one load and one addition a vector, no store. Threads take blocks of their own, which needs no
// waiting; where blocks are few, they decode each slab together and then share the output rows. No thread decodes
// what another one has decoded. Memory beyond y: a slab a thread at most (half of W in all), the half-decoded
// codes (size of post), and 4 bytes an event (plus its value when x is graded).
//
// The floor. An event costs taps * C_out additions, whose rows come from the second-level cache: at 32 bytes a
// cycle, 8 floats a cycle and core, where a dense convolution does 16 multiply-adds. So density d costs 2 d of a
// dense convolution at its peak; decoding adds genes / (output positions) of it.
#pragma once

#include "genetic_conv2d.h"

#include <cstdlib>
#include <memory>

namespace gee {

inline constexpr int64_t kSlabChannels = 128;
inline constexpr int64_t kBlockLines = 4;  // a line is 64 bytes

// Uninitialised memory on a cache line's border.
template <typename T> class Scratch {
 public:
  explicit Scratch(int64_t size = 0)
      : data_(size ? static_cast<T*>(std::aligned_alloc(64, (size * sizeof(T) + 63) / 64 * 64)) : nullptr, std::free) {
    STD_TORCH_CHECK(!size || data_, "out of memory for ", size * sizeof(T), " bytes of scratch");
  }
  T* get() const { return data_.get(); }

 private:
  std::unique_ptr<T, decltype(&std::free)> data_;
};

// Which inputs are non-zero: [in_pixels, words], bit i of word j is channel 64 j + i.
template <typename T> class SpikeMasks {
 public:
  SpikeMasks(const conv::Shape& shape, const conv::Input<T>& x);
  const uint64_t* get() const { return masks_; }
  int64_t words() const { return words_; }

 private:
  int64_t words_;
  Scratch<uint64_t> packed_;
  const uint64_t* masks_;
};

// The non-zero inputs, by slab of input channels and row of pixels (all images' rows counted through).
template <typename T> struct EventLists {
  int64_t rows, width;       // images * height, width
  int64_t words;             // 64-bit masks a pixel
  const int64_t* row_begin;  // [slabs, rows] where a row's events start
  uint32_t* starts;          // [slabs, rows, width + 1] where a pixel's events start within its row
  uint32_t* events;          // column * kSlabChannels + channel within the slab
  T* values;                 // of graded input; null for binary
};

template <typename T> struct EventGather {
  EventLists<T> lists;
  int64_t slab_index, height, out_height, out_width, kernel, stride, padding;
  const T* slab;         // [taps, kSlabChannels, lines]
  T* out;                // [out_pixels] rows of `lines`
  int64_t out_stride;    // between rows of out
  bool accumulate;       // add to out rather than overwrite it
};

// A convolution ready to run block by block: events listed, codes half decoded.
template <typename T> class EventConvolution {
 public:
  static constexpr int64_t kLine = 64 / sizeof(T);
  static constexpr int64_t kBlock = kBlockLines * kLine;  // output channels a block

  EventConvolution(const conv::Shape& shape, const conv::Input<T>& x, const conv::Codes<T>& codes);

  int64_t blocks() const { return (shape_.c_out + kBlock - 1) / kBlock; }
  int64_t channels(int64_t block) const { return std::min(kBlock, shape_.c_out - block * kBlock); }
  // Columns written for a block: its channels rounded up to a line; those beyond are 0.
  int64_t width(int64_t block) const { return (channels(block) + kLine - 1) / kLine * kLine; }

  // Whether threads should take blocks of their own: they divide evenly, and no more than half of W is held.
  bool blocks_apart() const;

  // out: out_pixels rows of width(block) columns, `out_stride` apart: the output of the block's channels.
  // Runs parallel, unless called in parallel.
  void run(int64_t block, T* out, int64_t out_stride) const;

 private:
  conv::Shape shape_;
  conv::Codes<T> codes_;
  int64_t slabs_, count_ = 0;
  EventLists<T> lists_;
  Scratch<int64_t> row_begin_;
  Scratch<uint32_t> starts_, events_;
  Scratch<T> values_, half_;  // half: [blocks][taps, genes, width], interaction post^T
};

}  // namespace gee
