// Body of spikes.cpp, compiled per instruction set.

// One row of channels (stride `step` between neighbours) to bytes.
template <typename T>
void pack_row(const T* row, int64_t step, int64_t channels, uint8_t* out) {
  const int64_t whole = channels / 8;
  for (int64_t j = 0; j < whole; ++j) {
    uint8_t byte = 0;
    for (int i = 0; i < 8; ++i) byte |= uint8_t(row[(8 * j + i) * step] != T(0)) << i;
    out[j] = byte;
  }
  if (channels % 8) {
    uint8_t byte = 0;
    for (int64_t i = 0; i < channels % 8; ++i) byte |= uint8_t(row[(8 * whole + i) * step] != T(0)) << i;
    out[whole] = byte;
  }
}

template <typename T>
void unpack_row(const uint8_t* row, int64_t channels, T* out) {
  for (int64_t c = 0; c < channels; ++c) out[c] = T(float((row[c / 8] >> (c % 8)) & 1));
}
