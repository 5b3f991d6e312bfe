"""Every Triton kernel compiles for sm_80 and sm_90, without spills and within the chip, as the tables say."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPERATORS = sorted(path.parent.name for path in (ROOT / "gee_kernels").glob("*/triton_kernel.py"))


def run(code_or_module: list[str]) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *code_or_module], cwd=ROOT, env=env, capture_output=True, text=True
    )


def test_all_operators_compile_as_the_tables_say():
    done = run(["-m", "bench.compile_kernels", "--check"])
    assert done.returncode == 0, done.stdout + done.stderr
    for operator in OPERATORS:
        assert f"{operator}: " in done.stdout


BATCHES = """
import torch
from bench.compile_kernels import compiling
from gee_kernels._triton import meta
from importlib import import_module

lif = import_module("gee_kernels.lif.triton_kernel")
norm = import_module("gee_kernels.batch_norm_lif.triton_kernel")
spikes = import_module("gee_kernels.spikes.triton_kernel")
synapses = import_module("gee_kernels.synapses.triton_kernel")
neuron = (2.0, 0.5, 0.0, True, True, "atan", 2.0)

def kernels(batch):
    x = meta(2 * batch, 48, 6, 6, dtype=torch.bfloat16, channels_last=True)
    bits = meta(2 * batch, 6, 6, 6, dtype=torch.uint8)
    steps, vector = x.unflatten(0, (2, batch)), meta(48)
    with compiling(90) as compiled:
        lif.lif(steps, None, *neuron, False)
        lif.lif_backward(steps, None, steps, None, *neuron)
        norm.batch_norm_lif(x, vector, vector, None, None, x, bits, 2, 1e-5, *neuron)
        norm.batch_norm_lif_backward(x, x, *[vector] * 4, x, bits, 2, 1e-5, *neuron, True, True)
        spikes.pack_spikes(x)
        spikes.unpack_spikes(bits, 48, torch.bfloat16)
        synapses.count_synapses(bits, meta(6, 6, dtype=torch.int64))
    return [kernel.hash for _, kernel in compiled]

first, *others = map(kernels, (5, 16, 33, 512))
assert len(first) == 11, len(first)
assert others == [first] * 3, others
"""


def test_another_batch_size_compiles_nothing_new():
    done = run(["-c", BATCHES])
    assert done.returncode == 0, done.stdout + done.stderr
