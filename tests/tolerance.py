"""How close a kernel must come to the reference computed in float64, by the dtype it stores.

A result is judged by ||out - ref|| / ||ref||. float32 and float64 kernels differ from the reference only in
the order of their sums (a few hundred roundings, which grow like a square root); the 16-bit types round
their operands and the result once each, at 2^-8 (bfloat16) and 2^-11 (float16).
"""

import torch

RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def relative_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    """||out - ref|| / ||ref|| in float64; 0 for two empty or two zero tensors."""
    assert out.shape == ref.shape, f"shape {list(out.shape)}, expected {list(ref.shape)}"
    out, ref = out.detach().double().cpu(), ref.detach().double().cpu()
    assert out.isfinite().all() == ref.isfinite().all(), "one side is not finite"
    norm = ref.norm().item()
    error = (out - ref).norm().item()
    return error / norm if norm else error


def assert_close(out: torch.Tensor, ref: torch.Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
    """Fail where `out`, computed in `dtype`, is further from `ref` than the table allows times `factor`."""
    error = relative_error(out, ref)
    limit = RELATIVE[dtype] * factor
    assert error <= limit, f"relative error {error:.2e} exceeds {limit:.0e} for {dtype}"
