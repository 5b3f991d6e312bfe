"""Where there is no GPU, the Triton kernels are tested in Triton's interpreter.

Triton decides when a kernel is decorated, so the choice is made here, before anything imports triton.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from gee_kernels.testing import interpreted


@pytest.fixture
def triton_device():
    """A device on which the operators run their Triton kernels: the GPU, or the CPU under the interpreter."""
    if torch.cuda.is_available():
        yield "cuda"
    else:
        with interpreted():
            yield "cpu"
