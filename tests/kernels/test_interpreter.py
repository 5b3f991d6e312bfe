"""The tools that run Triton kernels without a GPU notice what they are there to notice."""

import pytest
import torch

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


def test_reading_beyond_an_input_is_poison(stand_in):
    def launcher(x):
        assert torch.equal(x, torch.arange(12.0).reshape(4, 3).T)
        assert x.stride() == (1, 3)
        return x.as_strided((3,), (1,), x.storage_offset() + 11).clone()

    with stand_in(launcher):
        last = pack_spikes(torch.arange(12.0).reshape(4, 3).T)
    assert last[0] == 11
    assert last[1:].isnan().all()


@pytest.mark.parametrize("where", [-1, 4], ids=["before", "behind"])
def test_a_write_outside_is_an_error(stand_in, where):
    def launcher(x):
        out = torch.zeros(4)
        out.as_strided((1,), (1,), out.storage_offset() + where).fill_(1)
        return out

    with stand_in(launcher), pytest.raises(RuntimeError, match="pack_spikes wrote outside"):
        pack_spikes(torch.ones(2, 8))


def test_needs_the_environment_variable(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"), testing.interpreted():
        pass
