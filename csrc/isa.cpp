// limit_isa: lowers the instruction set that the kernels use (gee_kernels/_library.py).
#include "common.h"

namespace gee {
namespace {

constexpr std::array<const char*, 3> kNames{"baseline", "avx2", "avx512"};

// Returns the level in force, which is no higher than what this CPU has.
std::string limit_isa(std::string level) {
  const auto* name = std::find(kNames.begin(), kNames.end(), level);
  STD_TORCH_CHECK(name != kNames.end(), "level must be baseline, avx2 or avx512, got ", level);
  isa_limit().store(Isa(name - kNames.begin()), std::memory_order_relaxed);
  return kNames[size_t(isa())];
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CompositeExplicitAutograd, m) {
  m.impl("limit_isa", TORCH_BOX(&gee::limit_isa));
}
