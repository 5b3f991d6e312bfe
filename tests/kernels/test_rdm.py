"""The RDM: counts against plain loops, dissimilarities against their definitions and against rsatoolbox."""

import numpy as np
import pytest
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

import gee_kernels
from gee_kernels import _library, hamming_log_determinant, spike_overlaps, spike_rdm
from gee_kernels.rdm.op import METRICS

# [T * B, C, *space], T; among them one image, steps that end within a line, several panels, nothing
CASES = [
    ((2, 3, 1, 1), 2),
    ((3, 9), 1),
    ((12, 37, 5, 4), 3),
    ((10, 130, 7, 9), 2),
    ((4, 512, 3, 3), 4),
    ((18, 64, 24, 25), 2),
    ((131, 70, 3, 3), 1),
    ((0, 9, 4, 4), 2),
    ((4, 3, 0, 4), 2),
]
BACKENDS = ["fused", "reference"]


def sample(shape: tuple[int, ...], time_steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Packed spikes, and the vectors [B, N] they stand for; rates differ from image to image."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator)
    spikes = (torch.rand(shape, generator=generator) < rates).float()
    steps = spikes.reshape(time_steps, shape[0] // time_steps, spikes[:1].numel())
    return gee_kernels.pack_spikes(spikes), steps.transpose(0, 1).flatten(1)


@pytest.fixture
def levels():
    yield "baseline", "avx2", "avx512"
    _library.limit_isa("avx512")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("shape", "time_steps"), CASES, ids=str)
def test_overlaps_are_exact(shape, time_steps, backend, levels):
    bits, x = sample(shape, time_steps)
    images = x.numpy().astype(bool)
    expected = torch.tensor([[int((a & b).sum()) for b in images] for a in images], dtype=torch.int64)
    for level in levels if backend == "fused" else levels[:1]:
        _library.limit_isa(level)
        overlaps = spike_overlaps(bits, time_steps=time_steps, backend=backend)
        assert overlaps.dtype == torch.int64
        assert torch.equal(overlaps, expected.reshape(len(images), len(images))), level


def test_differing_spikes_are_those_of_xor():
    bits, _ = sample((12, 37, 5, 4), 3)
    rdm = spike_rdm(bits, 37, time_steps=3) * (3 * 37 * 20)
    vectors = bits.unflatten(0, (3, 4)).transpose(0, 1).flatten(1).tolist()
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            assert round(rdm[i, j].item()) == sum((p ^ q).bit_count() for p, q in zip(a, b, strict=True))


def test_no_counter_overflows(levels):
    bits = torch.full((6, 3001, 31), 255, dtype=torch.uint8)  # 93,031 bytes per image, all ones
    for level in levels:
        _library.limit_isa(level)
        assert (spike_overlaps(bits) == 3001 * 31 * 8).all(), level


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("shape", "time_steps"), CASES, ids=str)
def test_fused_equals_reference_bit_for_bit(shape, time_steps, metric):
    bits, _ = sample(shape, time_steps)
    fused, reference = (
        spike_rdm(bits, shape[1], time_steps=time_steps, metric=metric, backend=backend)
        for backend in BACKENDS
    )
    assert fused.dtype == torch.float64
    assert torch.equal(fused, reference)
    assert torch.equal(fused, fused.T)
    assert (fused.diagonal() == 0).all()


@pytest.mark.parametrize(("metric", "method"), [("hamming", "euclidean"), ("correlation", "correlation")])
@pytest.mark.parametrize(("shape", "time_steps"), [((24, 37, 5, 4), 2), ((48, 64, 6, 6), 4)], ids=str)
def test_equals_rsatoolbox(shape, time_steps, metric, method):
    """Its squared Euclidean distance, divided by the number of channels, is the Hamming distance of bits."""
    bits, x = sample(shape, time_steps)
    theirs = calc_rdm(Dataset(x.double().numpy()), method=method).get_matrices()[0]
    ours = spike_rdm(bits, shape[1], time_steps=time_steps, metric=metric)
    assert np.abs(ours.numpy() - theirs).max() < 1e-12
    assert theirs.max() > 0.3


@pytest.mark.parametrize("metric", METRICS)
def test_equals_scipy(metric):
    bits, x = sample((24, 37, 5, 4), 2)
    theirs = squareform(pdist(x.double().numpy(), metric))
    ours = spike_rdm(bits, 37, time_steps=2, metric=metric)
    assert np.abs(ours.numpy() - theirs).max() < 1e-12


def test_images_without_an_angle():
    x = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]], dtype=torch.float32)
    bits = gee_kernels.pack_spikes(x)
    undefined = torch.tensor(
        [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 1, 0]]
    ).double()
    assert torch.equal(spike_rdm(bits, 3, metric="correlation"), undefined)
    cosine = spike_rdm(bits, 3, metric="cosine")
    assert torch.equal(cosine[:4, :4], undefined[:4, :4])
    assert cosine[4, 2].item() == pytest.approx(1 - 3**-0.5)


def test_log_determinant():
    bits, x = sample((16, 37, 5, 4), 2)
    rdm = spike_rdm(bits, 37, time_steps=2)
    agree = (x @ x.T + (1 - x) @ (1 - x).T).double().numpy()  # neurons in which two images agree
    score = np.linalg.slogdet(agree)[1]  # Mellor et al.
    assert hamming_log_determinant(rdm).item() + len(x) * np.log(x.shape[1]) == pytest.approx(score, rel=1e-9)
    assert hamming_log_determinant(rdm) < 0
    twins = bits.clone()
    twins.unflatten(0, (2, 8))[:, 3] = twins.unflatten(0, (2, 8))[:, 5]
    stacked = torch.stack([rdm, spike_rdm(twins, 37, time_steps=2)])
    assert hamming_log_determinant(stacked).tolist() == [hamming_log_determinant(rdm).item(), -np.inf]


def test_strided_bits():
    bits, _ = sample((6, 40, 6, 4), 2)
    strided = torch.stack([bits, bits], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert torch.equal(spike_overlaps(strided, time_steps=2), spike_overlaps(bits, time_steps=2))


def test_same_for_any_thread_count():
    bits, _ = sample((18, 64, 24, 25), 2)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(spike_overlaps(bits, time_steps=2))
    torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_opcheck_and_compile():
    bits, _ = sample((12, 20, 4, 5), 3)
    torch.library.opcheck(torch.ops.gee_kernels.spike_overlaps.default, (bits, 3))
    compiled = torch.compile(spike_rdm, fullgraph=True)(bits, 20, time_steps=3, metric="correlation")
    expected = spike_rdm(bits, 20, time_steps=3, metric="correlation")
    assert torch.allclose(compiled, expected, rtol=0, atol=1e-15)


def test_errors_name_what_was_expected():
    bits, _ = sample((6, 8, 3, 3), 2)
    with pytest.raises(ValueError, match="bits must be uint8"):
        spike_overlaps(bits.float())
    with pytest.raises(ValueError, match="time_steps must divide the 6 rows of bits, got 4"):
        spike_overlaps(bits, time_steps=4)
    with pytest.raises(ValueError, match="bits must be less than 2\\^31 per image"):
        spike_overlaps(torch.empty(1, 2**28, dtype=torch.uint8, device="meta"))
    with pytest.raises(ValueError, match=r"bits must be \[T \* B, \*space, 2\] for 9 channels"):
        spike_rdm(bits, 9)
    with pytest.raises(ValueError, match="metric must be one of hamming, cosine, correlation, got 'l2'"):
        spike_rdm(bits, 8, metric="l2")
    with pytest.raises(ValueError, match="backend must be one of"):
        spike_overlaps(bits, backend="other")
    with pytest.raises(ValueError, match=r"rdm must be \[..., B, B\], got \[2, 3\]"):
        hamming_log_determinant(torch.zeros(2, 3))
