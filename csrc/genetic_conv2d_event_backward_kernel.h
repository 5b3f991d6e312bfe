// Body of genetic_conv2d_event_backward.cpp, compiled per instruction set.
#include "simd.h"
#include "genetic_conv2d_slab_kernel.h"

// Calls f(list, position, pixel, channel) for every event of a tile, pixel by pixel.
template <typename F>
void for_each_event(const GradTiles& tiles, int64_t tile, const uint64_t* masks, int64_t words, F&& f) {
  const int64_t stride = tiles.stride;
  for (int64_t row = tile * tiles.rows; row < std::min((tile + 1) * tiles.rows, tiles.stack); ++row) {
    const int64_t image = row / tiles.padded_height, coarse = row % tiles.padded_height - tiles.halo;
    if (coarse < 0) continue;
    const int64_t first = (row - tile * tiles.rows + tiles.halo) * tiles.padded_width - tiles.first + tiles.halo;
    for (int64_t a = 0; a < stride; ++a) {
      const int64_t y = (coarse + tiles.first) * stride + a - tiles.padding;
      if (y < 0 || y >= tiles.height) continue;
      for (int64_t column = 0; column < tiles.width; ++column) {
        const int64_t x = column + tiles.padding, class_ = a * stride + x % stride;
        const uint16_t position = uint16_t(first + x / stride);
        const int64_t pixel = (image * tiles.height + y) * tiles.width + column;
        for (int64_t word = 0; word < words; ++word)
          for (uint64_t mask = masks[pixel * words + word]; mask; mask &= mask - 1) {
            const int64_t c = 64 * word + __builtin_ctzll(mask);
            f(c * stride * stride + class_, position, pixel, c);
          }
      }
    }
  }
}

// starts [per_tile + 1] of one tile's lists; returns its events.
inline int64_t count_tile(const GradTiles& tiles, int64_t tile, const uint64_t* masks, int64_t words,
                          int64_t per_tile, uint32_t* starts) {
  std::fill_n(starts, per_tile + 1, 0u);
  for_each_event(tiles, tile, masks, words,
                 [&](int64_t list, uint16_t, int64_t, int64_t) { ++starts[list + 1]; });
  for (int64_t i = 0; i < per_tile; ++i) starts[i + 1] += starts[i];
  return starts[per_tile];
}

// The events of one tile, by list; next [per_tile] is scratch. x: the values, read where values are wanted.
template <typename T>
void fill_tile(const GradTiles& tiles, const TileLists<T>& lists, int64_t tile, const uint64_t* masks, int64_t words,
               const T* x, int64_t channels, uint32_t* next) {
  std::copy_n(lists.starts + tile * (lists.per_tile + 1), lists.per_tile, next);
  uint16_t* events = lists.events + lists.tile_begin[tile];
  T* values = lists.values ? lists.values + lists.tile_begin[tile] : nullptr;
  for_each_event(tiles, tile, masks, words, [&](int64_t list, uint16_t position, int64_t pixel, int64_t c) {
    const uint32_t slot = next[list]++;
    events[slot] = position;
    if (values) values[slot] = x[pixel * channels + c];
  });
}

// One row of the padded stack: grad's row of `outputs` columns to lines, [line][padded_width, line], `step` apart.
template <typename T>
void pack_row(const GradTiles& tiles, int64_t row, const T* grad, int64_t c_out, int64_t outputs, T* packed,
              int64_t step) {
  constexpr int64_t kLine = kLineLanes<T>;
  const int64_t image = row / tiles.padded_height, y = row % tiles.padded_height - tiles.halo + tiles.first;
  const bool inside = y >= 0 && y < tiles.out_height;
  // Packed columns [begin, end) hold outputs [x, x + end - begin), the others zeros.
  const int64_t x = std::max<int64_t>(0, tiles.first - tiles.halo), begin = x + tiles.halo - tiles.first;
  const int64_t end = inside ? std::clamp(begin + tiles.out_width - x, begin, tiles.padded_width) : begin;
  const T* from = grad + ((image * tiles.out_height + y) * tiles.out_width + x) * c_out;
  for (int64_t o = 0; o < outputs; o += kLine, packed += step) {
    std::fill(packed, packed + begin * kLine, T(0));
    const int64_t columns = std::min(kLine, outputs - o);
    for (int64_t i = begin; i < end; ++i) {
      const T* source = from + (i - begin) * c_out + o;
      T* target = packed + i * kLine;
      if (columns == kLine) {
#pragma GCC unroll 16
        for (int j = 0; j < kLineVectors; ++j) store(target + j * kLanes<T>, load(source + j * kLanes<T>));
      } else {
        std::fill(std::copy_n(source, columns, target), target + kLine, T(0));
      }
    }
    std::fill(packed + end * kLine, packed + tiles.padded_width * kLine, T(0));
  }
}

// ROWS x COLUMNS taps of one channel: weight[tap] += sum over the events of the gradient at the position the tap
// leads to. All taps' sums stay in registers, one vector of output channels at a time.
template <typename T, int ROWS, int COLUMNS, bool GRADED>
void scatter_taps(const uint16_t* event, const uint16_t* last, const T* value, const T* tile, int64_t row_step,
                  T* weight, int64_t tap_row, int64_t tap_column) {
#pragma GCC unroll 4
  for (int part = 0; part < kLineVectors; ++part) {
    Vector<T> sum[ROWS][COLUMNS] = {};
    const T* factor = value;
    const T* base = tile + part * kLanes<T>;
    for (const uint16_t* e = event; e != last; ++e) {
      const T* at = base + int64_t(*e) * kLineLanes<T>;
      const Vector<T> scale = GRADED ? broadcast(*factor++) : Vector<T>{};
#pragma GCC unroll 4
      for (int j = 0; j < ROWS; ++j)
#pragma GCC unroll 4
        for (int i = 0; i < COLUMNS; ++i) {
          const Vector<T> grad = load(at - j * row_step - i * kLineLanes<T>);
          if constexpr (GRADED) sum[j][i] = multiply_add<T>(scale, grad, sum[j][i]);
          else sum[j][i] += grad;
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < ROWS; ++j)
#pragma GCC unroll 4
      for (int i = 0; i < COLUMNS; ++i) {
        T* to = weight + part * kLanes<T> + j * tap_row + i * tap_column;
        store(to, load(to) + sum[j][i]);
      }
  }
}

template <typename T, bool GRADED>
void scatter_class(int64_t rows, int64_t columns, const uint16_t* event, const uint16_t* last, const T* value,
                   const T* tile, int64_t row_step, T* weight, int64_t tap_row, int64_t tap_column) {
  // Any number of taps, three by three.
  for (int64_t j = 0; j < rows; j += 3)
    for (int64_t i = 0; i < columns; i += 3) {
      const T* from = tile - j * row_step - i * kLineLanes<T>;
      T* to = weight + j * tap_row + i * tap_column;
#define GEE_TAPS(R, C) \
  case 4 * R + C: scatter_taps<T, R, C, GRADED>(event, last, value, from, row_step, to, tap_row, tap_column); break
      switch (4 * std::min<int64_t>(3, rows - j) + std::min<int64_t>(3, columns - i)) {
        GEE_TAPS(1, 1);
        GEE_TAPS(1, 2);
        GEE_TAPS(1, 3);
        GEE_TAPS(2, 1);
        GEE_TAPS(2, 2);
        GEE_TAPS(2, 3);
        GEE_TAPS(3, 1);
        GEE_TAPS(3, 2);
        GEE_TAPS(3, 3);
      }
#undef GEE_TAPS
    }
}

// weight [channels of the slab, taps, block] += tiles [first_tile, last_tile), for channels [begin, end) and one
// line of columns. packed: the line's rows from the first tile's halo on.
template <typename T>
void scatter(const GradTiles& tiles, const TileLists<T>& lists, int64_t first_tile, int64_t last_tile, const T* packed,
             int64_t first_channel, int64_t begin, int64_t end, T* weight, int64_t block) {
  const int64_t kernel = tiles.kernel, stride = tiles.stride, classes = stride * stride;
  const int64_t row_step = tiles.padded_width * kLineLanes<T>;
  if (first_tile == 0)
    for (int64_t c = begin; c < end; ++c)
      for (int64_t tap = 0; tap < kernel * kernel; ++tap)
        std::fill_n(weight + (c * kernel * kernel + tap) * block, kLineLanes<T>, T(0));
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const T* from = packed + (tile - first_tile) * tiles.rows * row_step;
    const uint32_t* starts = lists.starts + tile * (lists.per_tile + 1);
    const uint16_t* events = lists.events + lists.tile_begin[tile];
    const T* values = lists.values ? lists.values + lists.tile_begin[tile] : nullptr;
    for (int64_t c = begin; c < end; ++c)
      for (int64_t k = 0; k < classes; ++k) {
        const int64_t list = (first_channel + c) * classes + k, a = k / stride, b = k % stride;
        const uint32_t first = starts[list], last = starts[list + 1];
        if (first == last) continue;
        const int64_t rows = (kernel - a + stride - 1) / stride, columns = (kernel - b + stride - 1) / stride;
        T* to = weight + (c * kernel * kernel + a * kernel + b) * block;
        const int64_t tap_row = stride * kernel * block, tap_column = stride * block;
        if (values)
          scatter_class<T, true>(rows, columns, events + first, events + last, values + first, from, row_step, to,
                                 tap_row, tap_column);
        else
          scatter_class<T, false>(rows, columns, events + first, events + last, values, from, row_step, to, tap_row,
                                  tap_column);
      }
  }
}
