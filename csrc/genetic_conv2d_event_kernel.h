// Body of genetic_conv2d_event.cpp, compiled per instruction set.
#include "simd.h"
#include "genetic_conv2d_slab_kernel.h"

// b [k, columns] = a [rows, k] transposed, columns beyond `rows` zero.
template <typename T> void transpose(const T* a, int64_t rows, int64_t k, int64_t columns, T* b) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t u = 0; u < k; ++u) b[u * columns + i] = a[i * k + u];
  for (int64_t u = 0; u < k; ++u) std::fill(b + u * columns + rows, b + (u + 1) * columns, T(0));
}

// 64 channels of one pixel, non-zero or not.
template <typename S> uint64_t nonzero_mask(const S* x, int64_t channels) {
  uint64_t mask = 0;
  int64_t c = 0;
#if GEE_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<S, float>)
    for (; c + 16 <= channels; c += 16)
      mask |= uint64_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(x + c), _mm512_setzero_ps(), _CMP_NEQ_UQ)) << c;
#elif GEE_VECTOR_BYTES == 32
  if constexpr (std::is_same_v<S, float>)
    for (; c + 8 <= channels; c += 8)
      mask |= uint64_t(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + c), _mm256_setzero_ps(), _CMP_NEQ_UQ)))
              << c;
#endif
  for (; c < channels; ++c) mask |= uint64_t(x[c] != S(0)) << c;
  return mask;
}

// Masks of pixels [begin, end), `words` each, from the bits or the values.
template <typename T>
void collect_masks(const conv::Input<T>& x, int64_t begin, int64_t end, int64_t channels, int64_t words,
                   uint64_t* masks) {
  const int64_t bytes = (channels + 7) / 8;
  for (int64_t pixel = begin; pixel < end; ++pixel)
    for (int64_t word = 0; word < words; ++word) {
      const int64_t count = std::min<int64_t>(64, channels - 64 * word);
      uint64_t mask = 0;
      if (x.bits) {
        std::memcpy(&mask, x.bits + pixel * bytes + 8 * word, (count + 7) / 8);
        if (count < 64) mask &= (uint64_t(1) << count) - 1;
      } else {
        mask = nonzero_mask(x.values + pixel * channels + 64 * word, count);
      }
      masks[pixel * words + word] = mask;
    }
}

// row_begin [slabs, rows]: the spikes before each row; returns all. Not worth sharing among threads.
inline int64_t count_spikes(const uint64_t* masks, int64_t rows, int64_t width, int64_t words, int64_t slabs,
                            int64_t* row_begin) {
  constexpr int64_t kWords = kSlabChannels / 64;
  int64_t count = 0;
  for (int64_t slab = 0; slab < slabs; ++slab)
    for (int64_t row = 0; row < rows; ++row) {
      row_begin[slab * rows + row] = count;
      const int64_t last = std::min(words, (slab + 1) * kWords);
      for (int64_t column = 0; column < width; ++column)
        for (int64_t word = slab * kWords; word < last; ++word)
          count += __builtin_popcountll(masks[(row * width + column) * words + word]);
    }
  return count;
}

// Rows [begin, end) of the lists of one slab. x: the values, read where values are wanted.
template <typename T>
void fill_lists(const EventLists<T>& lists, int64_t slab, int64_t begin, int64_t end, const uint64_t* masks,
                const T* x, int64_t channels) {
  constexpr int64_t kWords = kSlabChannels / 64;
  const int64_t word_begin = slab * kWords, word_end = std::min(lists.words, word_begin + kWords);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = slab * lists.rows + row;
    uint32_t* starts = lists.starts + at * (lists.width + 1);
    uint32_t* events = lists.events + lists.row_begin[at];
    T* values = lists.values ? lists.values + lists.row_begin[at] : nullptr;
    uint32_t count = 0;
    for (int64_t column = 0; column < lists.width; ++column) {
      const int64_t pixel = row * lists.width + column;
      starts[column] = count;
      for (int64_t word = word_begin; word < word_end; ++word)
        for (uint64_t mask = masks[pixel * lists.words + word]; mask; mask &= mask - 1, ++count) {
          const int64_t c = 64 * word + __builtin_ctzll(mask);
          events[count] = uint32_t((column - slab) * kSlabChannels + c);
          if (values) values[count] = x[pixel * channels + c];
        }
    }
    starts[lists.width] = count;
  }
}

// Output rows [begin, end) (of all N * H'): y[position] (+)= sum over the events of its receptive field of their
// rows of the slab. The accumulators of a position stay in registers while its events are gone through.
template <typename T, int LINES, bool GRADED>
void gather_rows(const EventGather<T>& g, int64_t begin, int64_t end) {
  constexpr int kVectors = LINES * kLineVectors;
  constexpr int kWidth = LINES * kLineLanes<T>;
  const EventLists<T>& lists = g.lists;
  for (int64_t out_row = begin; out_row < end; ++out_row) {
    const int64_t image = out_row / g.out_height, y0 = out_row % g.out_height * g.stride - g.padding;
    const int64_t tap_begin = std::max<int64_t>(0, -y0), tap_end = std::min(g.kernel, g.height - y0);
    const int64_t first_row = g.slab_index * lists.rows + image * g.height + y0;
    T* out = g.out + out_row * g.out_width * g.out_stride;
    for (int64_t column = 0; column < g.out_width; ++column, out += g.out_stride) {
      const int64_t x0 = column * g.stride - g.padding;
      const int64_t x_begin = std::clamp<int64_t>(x0, 0, lists.width), x_end = std::clamp<int64_t>(x0 + g.kernel, 0, lists.width);
      Vector<T> sum[kVectors];
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) sum[j] = g.accumulate ? load(out + j * kLanes<T>) : Vector<T>{};
      for (int64_t tap = tap_begin; tap < tap_end; ++tap) {
        const uint32_t* starts = lists.starts + (first_row + tap) * (lists.width + 1);
        const int64_t base = lists.row_begin[first_row + tap];
        const uint32_t* event = lists.events + base + starts[x_begin];
        const uint32_t* last = lists.events + base + starts[x_end];
        const T* value = GRADED ? lists.values + base + starts[x_begin] : nullptr;
        // The events of neighbouring pixels lie next to each other, so a row of taps is one run.
        const int64_t shift = (tap * g.kernel - x0) * kSlabChannels;
        for (; event != last; ++event) {
          const T* row = g.slab + (shift + int64_t(*event)) * kWidth;
          if constexpr (GRADED) {
            const Vector<T> factor = broadcast(*value++);
#pragma GCC unroll 16
            for (int j = 0; j < kVectors; ++j) sum[j] = multiply_add<T>(factor, load(row + j * kLanes<T>), sum[j]);
          } else {
#pragma GCC unroll 16
            for (int j = 0; j < kVectors; ++j) sum[j] += load(row + j * kLanes<T>);
          }
        }
      }
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) store(out + j * kLanes<T>, sum[j]);
    }
  }
}

template <typename T> void gather(const EventGather<T>& g, int64_t lines, int64_t begin, int64_t end) {
  const bool graded = g.lists.values;
  switch (lines) {
    case 4: return graded ? gather_rows<T, 4, true>(g, begin, end) : gather_rows<T, 4, false>(g, begin, end);
    case 3: return graded ? gather_rows<T, 3, true>(g, begin, end) : gather_rows<T, 3, false>(g, begin, end);
    case 2: return graded ? gather_rows<T, 2, true>(g, begin, end) : gather_rows<T, 2, false>(g, begin, end);
    default: return graded ? gather_rows<T, 1, true>(g, begin, end) : gather_rows<T, 1, false>(g, begin, end);
  }
}
