"""Every instruction set's copy of a kernel is reachable on one machine and computes the same."""

import pytest
import torch

from gee_kernels import _library, pack_spikes

LEVELS = ("baseline", "avx2", "avx512")


@pytest.fixture(autouse=True)
def restore():
    yield
    _library.limit_isa("avx512")


def test_a_limit_is_obeyed_and_never_exceeds_the_cpu():
    best = _library.limit_isa("avx512")
    for level in LEVELS:
        assert _library.limit_isa(level) == min(level, best, key=LEVELS.index)


def test_an_unknown_level_is_named():
    with pytest.raises(RuntimeError, match="level must be baseline, avx2 or avx512, got sse9"):
        _library.limit_isa("sse9")


@pytest.mark.parametrize("level", LEVELS)
def test_kernels_agree_at_every_level(level):
    x = (torch.rand(3, 37, 5, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    _library.limit_isa(level)
    assert torch.equal(pack_spikes(x), pack_spikes(x, backend="reference"))
