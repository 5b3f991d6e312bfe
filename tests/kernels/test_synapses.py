"""`count_synapses` against plain loops: exact, in every form."""

import pytest
import torch

import gee_kernels

SHAPES = [(3, 5, 4, 3), (2, 8, 1, 1), (1, 130, 7, 2), (4, 64, 5), (3, 70), (0, 9, 4, 4), (2, 3, 0, 4)]
BACKENDS = ["fused", "reference"]


def sample(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spikes [N, C, *space], their bits, and a fan-out per position."""
    generator = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(shape, generator=generator) < 0.4).float()
    fan_out = torch.randint(0, 5000, shape[2:], generator=generator)
    return spikes, gee_kernels.pack_spikes(spikes), fan_out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_counts_are_exact(shape, backend):
    spikes, bits, fan_out = sample(shape)
    expected = torch.stack(
        [spikes.flatten(1).sum(1).long(), (spikes.long() * fan_out).flatten(1).sum(1)], dim=1
    )
    counts = gee_kernels.count_synapses(bits, fan_out, backend=backend)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, expected)


def test_strided_bits_and_large_counts():
    _, bits, fan_out = sample((6, 40, 6, 4))
    fan_out = fan_out + 2**40  # sums beyond 32 and 53 bits of precision stay exact
    expected = gee_kernels.count_synapses(bits, fan_out, backend="reference")
    strided = torch.stack([bits, bits], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert torch.equal(gee_kernels.count_synapses(strided, fan_out.t().contiguous().t()), expected)


def test_same_for_any_thread_count():
    _, bits, fan_out = sample((9, 300, 12, 12))
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(gee_kernels.count_synapses(bits, fan_out))
    torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_opcheck_and_compile():
    _, bits, fan_out = sample((3, 20, 4, 5))
    torch.library.opcheck(torch.ops.gee_kernels.count_synapses.default, (bits, fan_out))
    compiled = torch.compile(gee_kernels.count_synapses, fullgraph=True)
    assert torch.equal(compiled(bits, fan_out), gee_kernels.count_synapses(bits, fan_out))


def test_errors_name_what_was_expected():
    _, bits, fan_out = sample((2, 8, 3, 3))
    with pytest.raises(ValueError, match=r"fan_out must be int64 \[3, 3\].*got torch.int64 \[2, 3\]"):
        gee_kernels.count_synapses(bits, fan_out[:2])
    with pytest.raises(ValueError, match=r"fan_out must be int64 \[3, 3\].*got torch.int32"):
        gee_kernels.count_synapses(bits, fan_out.int())
    with pytest.raises(ValueError, match="bits must be uint8"):
        gee_kernels.count_synapses(bits.float(), fan_out)
    with pytest.raises(ValueError, match="backend must be one of"):
        gee_kernels.count_synapses(bits, fan_out, backend="other")
