// Body of synapses.cpp, compiled per instruction set.

// Spikes in one row of packed channels.
inline int64_t popcount_row(const uint8_t* row, int64_t bytes) {
  int64_t spikes = 0, j = 0;
  for (; j + 8 <= bytes; j += 8) {
    uint64_t word;
    std::memcpy(&word, row + j, 8);
    spikes += __builtin_popcountll(word);
  }
  for (; j < bytes; ++j) spikes += __builtin_popcount(row[j]);
  return spikes;
}

// One sample: bits [space, bytes], fan_out [space] -> out = {spikes, accumulations}
inline void count_sample(const uint8_t* bits, const int64_t* fan_out, int64_t space, int64_t bytes,
                         int64_t* out) {
  int64_t spikes = 0, accumulations = 0;
  for (int64_t p = 0; p < space; ++p) {
    const int64_t here = popcount_row(bits + p * bytes, bytes);
    spikes += here;
    accumulations += here * fan_out[p];
  }
  out[0] = spikes;
  out[1] = accumulations;
}
