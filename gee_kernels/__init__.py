"""The operators of gee: fused CPU (C++) and GPU (Triton) kernels for genetically encoded spiking networks.

Every operator has the same three forms with the same arguments: `reference.py` (the equation in plain
PyTorch, also reachable with `backend="reference"`), a C++ kernel and a Triton kernel; PyTorch's dispatcher
picks by device.
"""

from gee_kernels._library import load_extension

load_extension()

from gee_kernels.spikes.op import pack_spikes, unpack_spikes  # noqa: E402

__all__ = ["pack_spikes", "unpack_spikes"]
