"""One place where operators are declared and their kernels are found.

Every operator folder's `op.py` calls, in this order: `define` (schema), `register_triton` (CUDA kernel),
`torch.library.register_fake`, `torch.library.register_autograd`. C++ kernels register themselves when
`gee_kernels._C` is loaded (csrc/*.cpp, `STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m)`).
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch

NAMESPACE = "gee_kernels"
Backend = Literal["fused", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)
triton_launchers: dict[str, Callable] = {}  # operator -> what the dispatcher calls for CUDA tensors


def load_extension() -> None:
    """Load the compiled CPU kernels.

    Raises:
        ImportError: the extension is not built, with the command that builds it.
    """
    found = sorted(Path(__file__).parent.glob("_C*.so"))
    if not found:
        raise ImportError(
            "gee_kernels._C, the compiled CPU kernels, is not built; "
            "run `pip install --no-build-isolation -e .` in the project's folder"
        )
    torch.ops.load_library(found[-1])


def define(name: str, schema: str) -> None:
    """Declare operator `gee_kernels::name` with `schema`, e.g. `"(Tensor x) -> Tensor"`."""
    torch.library.define(f"{NAMESPACE}::{name}", schema, tags=(torch.Tag.pt2_compliant_tag,))


def register_triton(name: str, module: str, function: str | None = None) -> None:
    """Use `function` (default: `name`) of `gee_kernels.<module>.triton_kernel` for CUDA tensors.

    Triton is imported on the first call, so a CPU user does not wait for it.
    """

    def launch(*args):
        kernels = importlib.import_module(f"{NAMESPACE}.{module}.triton_kernel")
        return getattr(kernels, function or name)(*args)

    triton_launchers[name] = launch
    torch.library.register_kernel(f"{NAMESPACE}::{name}", "cuda")(launch)


def check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors in autocast's dtype where autocast is on for their device; float64 stays, as in torch."""
    device = tensors[0].device.type
    # "meta" by name: torch 2.11 cannot trace torch.amp.is_autocast_available.
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors)


define("limit_isa", "(str level) -> str")


def limit_isa(level: Literal["baseline", "avx2", "avx512"]) -> str:
    """Keep the C++ kernels from using more than `level`; returns what is then in use on this CPU.

    For tests and measurements: it acts on the whole process, and the CPU's best is the default.
    """
    return torch.ops.gee_kernels.limit_isa(level)
