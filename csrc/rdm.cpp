// spike_overlaps: see gee_kernels/rdm/reference.py for the equation and README.md there for the blocking.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <memory>
#include <mutex>
#include <new>

#include "common.h"

namespace gee::rdm {

inline constexpr int64_t kTile = 4;              // images of a group; a tile is a pair of groups
inline constexpr int64_t kPanelBytes = 1 << 19;  // stays in a core's second-level cache
inline constexpr int64_t kMinLines = 8, kMaxLines = 512;

// The bits of a batch: image b's vector is the bytes of its steps, one after the other.
struct Batch {
  const uint8_t* bits;  // [steps, images, step_bytes]
  int64_t images, step_bytes, vector_bytes;
};

}  // namespace gee::rdm

#define GEE_KERNEL_BODY "rdm_kernel.h"
#include "for_each_isa.h"

namespace gee {
namespace {

using rdm::kTile;
using CountLines = void (*)(const rdm::Batch&, int64_t, int64_t, uint8_t*, int64_t*);

CountLines count_lines() {
#if defined(__x86_64__)
  static const bool counts = __builtin_cpu_supports("avx512vpopcntdq");
  if (isa() == Isa::avx512 && counts) return isa_avx512::count_lines;
  if (isa() != Isa::baseline) return isa_avx2::count_lines;
#endif
  return isa_baseline::count_lines;
}

// bits: [T * B, *space, bytes] uint8 -> [B, B] int64
Tensor spike_overlaps(const Tensor& bits, int64_t time_steps) {
  STD_TORCH_CHECK(bits.dim() >= 2 && bits.scalar_type() == ScalarType::Byte,
                  "bits must be uint8 [T * B, *space, bytes]");
  STD_TORCH_CHECK(time_steps >= 1 && bits.size(0) % time_steps == 0, "bits must have T * B images for ", time_steps,
                  " time_steps, got ", bits.size(0));
  const Tensor in = torch::stable::contiguous(bits);
  const int64_t images = in.size(0) / time_steps, groups = (images + kTile - 1) / kTile;
  const std::array<int64_t, 2> shape{images, images};
  Tensor out = torch::stable::new_empty(in, {shape.data(), shape.size()}, ScalarType::Long);
  const int64_t step_bytes = images ? in.numel() / in.size(0) : 0;
  const rdm::Batch batch{static_cast<const uint8_t*>(in.const_data_ptr()), images, step_bytes,
                         time_steps * step_bytes};

  std::vector<int64_t> shared(groups * (groups + 1) / 2 * kTile * kTile);  // [pairs of groups, kTile, kTile]
  const int64_t all_lines = (batch.vector_bytes + 63) / 64, line_bytes = std::max<int64_t>(1, groups) * kTile * 64;
  const int64_t lines = std::clamp(rdm::kPanelBytes / line_bytes, rdm::kMinLines, rdm::kMaxLines);
  const CountLines count = count_lines();
  std::mutex adding;
  // Threads share out the bytes, not the pairs, so that each byte is read once. Integers may be added in any order.
  torch::stable::parallel_for(0, (all_lines + lines - 1) / lines, 1, [&](int64_t begin, int64_t end) {
    constexpr std::align_val_t kAlign{64};
    const auto release = [=](uint8_t* p) { ::operator delete(p, kAlign); };
    const std::unique_ptr<uint8_t, decltype(release)> panel(
        static_cast<uint8_t*>(::operator new(lines * line_bytes, kAlign)), release);
    std::memset(panel.get(), 0, lines * line_bytes);  // images that fill the last group stay zero
    std::vector<int64_t> mine(shared.size());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * lines, here = std::min(lines, all_lines - first);
      if (here < lines) std::memset(panel.get(), 0, lines * line_bytes);  // groups move closer together
      count(batch, first, here, panel.get(), mine.data());
    }
    const std::lock_guard<std::mutex> lock(adding);
    for (size_t i = 0; i < mine.size(); ++i) shared[i] += mine[i];
  });

  auto* target = static_cast<int64_t*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < images; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      const int64_t pair = i / kTile * (i / kTile + 1) / 2 + j / kTile;
      const int64_t value = shared[(pair * kTile + i % kTile) * kTile + j % kTile];
      target[i * images + j] = target[j * images + i] = value;
    }
  return out;
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) { m.impl("spike_overlaps", TORCH_BOX(&gee::spike_overlaps)); }
