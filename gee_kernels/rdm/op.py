"""`spike_rdm`: how differently a layer answers to the images of a batch, from its packed spikes.

The operator is `spike_overlaps`, an exact integer matrix; metrics and determinant are B x B arithmetic on it.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from gee_kernels import _library
from gee_kernels.rdm import reference

Metric = Literal["hamming", "cosine", "correlation"]
METRICS: tuple[str, ...] = get_args(Metric)

_library.define("spike_overlaps", "(Tensor bits, int time_steps) -> Tensor")
_library.register_triton("spike_overlaps", "rdm")


@torch.library.register_fake("gee_kernels::spike_overlaps")
def _fake(bits: Tensor, time_steps: int) -> Tensor:
    images = bits.shape[0] // time_steps
    return bits.new_empty((images, images), dtype=torch.int64)


def spike_overlaps(bits: Tensor, *, time_steps: int = 1, backend: _library.Backend = "fused") -> Tensor:
    """Count the spikes that any two images share, exactly.

    Args:
        bits: spikes as `pack_spikes` packs them, `[T * B, *space, ceil(C / 8)]` uint8, time outermost, unused
            bits 0. An image's vector is all T steps of its spikes.
        time_steps: T.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        `[B, B]` int64, symmetric: c_ij = |x_i AND x_j|, the diagonal being each image's own spikes; so
        |x_i XOR x_j| = c_ii + c_jj - 2 c_ij (reference.py).

    Raises:
        ValueError: another type, a number of rows that T does not divide, or 2^31 bits per image and more.
    """
    _library.check_backend(backend)
    if bits.dtype != torch.uint8 or bits.dim() < 2:
        raise ValueError(f"bits must be uint8 [T * B, *space, bytes], got {bits.dtype} {list(bits.shape)}")
    if time_steps < 1 or bits.shape[0] % time_steps:
        raise ValueError(f"time_steps must divide the {bits.shape[0]} rows of bits, got {time_steps}")
    if _positions(bits) * time_steps * bits.shape[-1] * 8 >= 2**31:
        raise ValueError(
            f"bits must be less than 2^31 per image, got {list(bits.shape)} for {time_steps} time_steps"
        )
    if backend == "reference":
        return reference.spike_overlaps(bits, time_steps)
    return torch.ops.gee_kernels.spike_overlaps(bits, time_steps)


def spike_rdm(
    bits: Tensor,
    channels: int,
    *,
    time_steps: int = 1,
    metric: Metric = "hamming",
    backend: _library.Backend = "fused",
) -> Tensor:
    """Representational dissimilarity matrix of one spiking layer.

    Args:
        bits: spikes as `pack_spikes` packs them, `[T * B, *space, ceil(C / 8)]` uint8, time outermost, unused
            bits 0. An image's vector is all T steps of its spikes.
        channels: C, of which the bits know only the number of bytes.
        time_steps: T.
        metric: `"hamming"` (the share of differing spikes), `"cosine"` or `"correlation"` (reference.py);
            a pair without a defined angle is 0 apart where its vectors are equal, else 1.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`; both give equal results.

    Returns:
        `[B, B]` float64, symmetric, zeros on the diagonal; hamming and cosine within [0, 1], correlation
        within [0, 2] up to rounding.

    Raises:
        ValueError: as `spike_overlaps`; `channels` that do not fit the bits; an unknown metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if bits.dim() < 2 or bits.shape[-1] != (channels + 7) // 8:
        raise ValueError(
            f"bits must be [T * B, *space, {(channels + 7) // 8}] for {channels} channels, "
            f"got {list(bits.shape)}"
        )
    overlaps = spike_overlaps(bits, time_steps=time_steps, backend=backend)
    return reference.dissimilarities(overlaps, time_steps * _positions(bits) * channels, metric)


def hamming_log_determinant(rdm: Tensor) -> Tensor:
    """ln det K of the Hamming kernel K = 1 - D: another score of how far a layer tells images apart.

    K_ij is the share of neurons and steps in which images i and j agree, a Gram matrix, so ln det K is at
    most 0 and falls to -inf where two images have the same spikes. The score of Mellor et al., Neural
    Architecture Search without Training (2021), is ln det (N K) = B ln N + ln det K.

    Args:
        rdm: `[..., B, B]`, what `spike_rdm` returns for `metric="hamming"`; several layers may be stacked.

    Returns:
        `[...]` of rdm's type.

    Raises:
        ValueError: rdm is not square.
    """
    if rdm.dim() < 2 or rdm.shape[-1] != rdm.shape[-2]:
        raise ValueError(f"rdm must be [..., B, B], got {list(rdm.shape)}")
    sign, value = torch.linalg.slogdet(1 - rdm)
    # Rounding would leave a finite number: the number of zeros off the diagonal says it exactly.
    singular = (sign <= 0) | ((rdm == 0).sum((-2, -1)) > rdm.shape[-1])
    return value.masked_fill(singular, -torch.inf)


def _positions(bits: Tensor) -> int:
    """Positions of `*space`, 1 where there is none."""
    positions = 1
    for size in bits.shape[1:-1]:
        positions *= size
    return positions
