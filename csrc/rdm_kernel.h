// Body of rdm.cpp, compiled per instruction set.
#include "simd.h"

// The widest copy counts with VPOPCNTDQ, which not every CPU with AVX-512 has: rdm.cpp asks before it calls.
#if GEE_VECTOR_BYTES == 64
#pragma GCC target("avx512vpopcntdq")
#endif

using rdm::kTile;
using Word = Vector<uint64_t>;

// Rows of a tile counted at a time, so that the counters stay in registers.
inline constexpr int kRows = GEE_VECTOR_BYTES == 64 ? 4 : GEE_VECTOR_BYTES == 32 ? 2 : 1;

// Lines after which counters are widened: those of 8 bits hold 31 times the 8 ones of a byte.
inline constexpr int64_t kWiden = GEE_VECTOR_BYTES == 64 ? int64_t(1) << 40 : 31 / kLineVectors;

// Ones in each 64-bit lane (AVX-512) or in each byte.
[[gnu::always_inline]] inline Word ones(Word x) {
#if GEE_VECTOR_BYTES == 64
  return (Word)_mm512_popcnt_epi64((__m512i)x);
#elif GEE_VECTOR_BYTES == 32
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256((__m256i)x, low));
  const __m256i second = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16((__m256i)x, 4), low));
  return (Word)_mm256_add_epi8(first, second);
#else
  x -= (x >> 1) & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
  return (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
#endif
}

// Counters of `ones` as one number in each 64-bit lane.
[[gnu::always_inline]] inline Word widened(Word x) {
#if GEE_VECTOR_BYTES < 64
  x = (x & 0x00ff00ff00ff00ffu) + ((x >> 8) & 0x00ff00ff00ff00ffu);
  x = (x & 0x0000ffff0000ffffu) + ((x >> 16) & 0x0000ffff0000ffffu);
  x = (x & 0x00000000ffffffffu) + (x >> 32);
#endif
  return x;
}

// shared[r, c] += |row_r AND col_c|: rows, cols [lines, kTile images, 64 bytes], shared [kTile, kTile]
inline void count_tile(const uint8_t* rows, const uint8_t* cols, int64_t lines, int64_t* shared) {
  constexpr int64_t kLine = kTile * 64;  // bytes from one line of a group to the next
  for (int64_t top = 0; top < kTile; top += kRows) {
    Word sums[kRows][kTile] = {};
    for (int64_t first = 0; first < lines; first += kWiden) {
      const int64_t last = std::min(lines, first + kWiden);
      Word counts[kRows][kTile] = {};
      for (int64_t line = first; line < last; ++line) {
        const uint8_t* row = rows + line * kLine + top * 64;
        const uint8_t* col = cols + line * kLine;
#pragma GCC unroll 4
        for (int v = 0; v < kLineVectors; ++v) {
          Word a[kRows];
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r)
            a[r] = load(reinterpret_cast<const uint64_t*>(row + r * 64 + v * GEE_VECTOR_BYTES));
#pragma GCC unroll 4
          for (int c = 0; c < kTile; ++c) {
            const Word b = load(reinterpret_cast<const uint64_t*>(col + c * 64 + v * GEE_VECTOR_BYTES));
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
              const Word both = ones(a[r] & b);
#if GEE_VECTOR_BYTES == 64
              counts[r][c] += both;
#else
              counts[r][c] = (Word)((Vector<uint8_t>)counts[r][c] + (Vector<uint8_t>)both);
#endif
            }
          }
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < kTile; ++c) sums[r][c] += widened(counts[r][c]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < kTile; ++c) {
        uint64_t total = 0;
        for (int i = 0; i < kLanes<uint64_t>; ++i) total += sums[r][c][i];
        shared[(top + r) * kTile + c] += int64_t(total);
      }
  }
}

[[gnu::always_inline]] inline void copy_line(uint8_t* to, const uint8_t* from) {
#pragma GCC unroll 4
  for (int v = 0; v < kLineVectors; ++v)
    store(to + v * GEE_VECTOR_BYTES, load(from + v * GEE_VECTOR_BYTES));
}

// Lines [first, first + lines) of one image, kTile lines apart; zeros behind the vector's end.
inline void pack_image(const rdm::Batch& batch, int64_t image, int64_t first, int64_t lines, uint8_t* to) {
  int64_t done = first * 64, step = done / batch.step_bytes, offset = done % batch.step_bytes;
  uint8_t* const end = to + lines * kTile * 64;
  while (to != end) {
    const uint8_t* from = batch.bits + (step * batch.images + image) * batch.step_bytes;
    for (; to != end && offset + 64 <= batch.step_bytes; to += kTile * 64, offset += 64, done += 64) {
      __builtin_prefetch(from + offset + 1024);
      copy_line(to, from + offset);
    }
    if (to == end) return;
    for (int64_t filled = 0; filled < 64;) {  // the line in which a step ends, or several short ones
      if (done == batch.vector_bytes) {
        std::memset(to + filled, 0, 64 - filled);
        break;
      }
      if (offset == batch.step_bytes) offset = 0, ++step;
      from = batch.bits + (step * batch.images + image) * batch.step_bytes + offset;
      const int64_t bytes = std::min(64 - filled, batch.step_bytes - offset);
      std::memcpy(to + filled, from, bytes);
      filled += bytes, done += bytes, offset += bytes;
    }
    to += kTile * 64;
  }
}

// shared += the spikes that images share in lines [first, first + lines): shared [pairs, kTile, kTile], the lower
// triangle of pairs of groups. panel [groups, lines, kTile, 64 bytes] is scratch, zero where no image is: packed,
// the lines of a tile lie side by side, whatever power of two separates the images in memory.
inline void count_lines(const rdm::Batch& batch, int64_t first, int64_t lines, uint8_t* panel, int64_t* shared) {
  const int64_t group = lines * kTile * 64, groups = (batch.images + kTile - 1) / kTile;
  for (int64_t b = 0; b < batch.images; ++b)
    pack_image(batch, b, first, lines, panel + b / kTile * group + b % kTile * 64);
  for (int64_t i = 0; i < groups; ++i)
    for (int64_t j = 0; j <= i; ++j, shared += kTile * kTile)
      count_tile(panel + i * group, panel + j * group, lines, shared);
}
