"""The tools that run Triton kernels without a GPU notice what they are there to notice."""

import pytest
import torch
import triton
import triton.language as tl

from gee_kernels import _library, pack_spikes, testing

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter stands in for a missing GPU"
)


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces the launcher of pack_spikes."""

    def use(launcher):
        monkeypatch.setitem(_library.triton_launchers, "pack_spikes", launcher)
        return testing.interpreted()

    return use


def test_the_launcher_runs_inside_and_the_cpu_kernel_outside(stand_in):
    x, called = torch.ones(2, 8), []

    def launcher(x):
        called.append(True)
        return torch.full((2, 1), 7, dtype=torch.uint8)

    with stand_in(launcher):
        assert pack_spikes(x).tolist() == [[7], [7]]
    assert pack_spikes(x).tolist() == [[255], [255]]
    assert len(called) == 1


def test_unwritten_output_is_poison(stand_in):
    with stand_in(lambda x: torch.empty_like(x)):
        assert pack_spikes(torch.ones(2, 8)).isnan().all()
    with stand_in(lambda x: x.new_empty(3, dtype=torch.int32)):
        assert (pack_spikes(torch.ones(2, 8)) == -1).all()


@triton.jit
def copy_kernel(p_x, p_out, shift, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    tl.store(p_out + o, tl.load(p_x + o + shift))


@pytest.mark.parametrize("shift", [-1, 1], ids=["before", "behind"])
def test_reading_outside_an_input_is_poison(stand_in, shift):
    def launcher(x):
        assert x.stride() == (1, 4)
        out = torch.zeros(8)
        copy_kernel[(1,)](p_x=x, p_out=out, shift=shift, BLOCK=8)
        return out

    with stand_in(launcher):
        out = pack_spikes(torch.arange(8.0).reshape(2, 4).T)
    expected = torch.arange(8.0) + shift
    assert torch.equal(out.isnan(), (expected < 0) | (expected > 7))
    assert torch.equal(out[1:7], expected[1:7])


@triton.jit
def store_kernel(p_out, where):
    tl.store(p_out + where, 1.0)


@pytest.mark.parametrize("where", [-1, 4], ids=["before", "behind"])
def test_writing_outside_an_output_is_an_error(stand_in, where):
    def launcher(x):
        out = torch.zeros(4)
        store_kernel[(1,)](p_out=out, where=where)
        return out

    with stand_in(launcher), pytest.raises(RuntimeError, match="pack_spikes wrote outside"):
        pack_spikes(torch.ones(2, 8))


def test_needs_the_environment_variable(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"), testing.interpreted():
        pass
