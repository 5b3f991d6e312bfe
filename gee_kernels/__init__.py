"""The operators of gee: fused CPU (C++) and GPU (Triton) kernels for genetically encoded spiking networks.

Every operator has the same three forms with the same arguments: `reference.py` (the equation in plain
PyTorch, also reachable with `backend="reference"`), a C++ kernel and a Triton kernel; PyTorch's dispatcher
picks by device.
"""

from gee_kernels._library import load_extension

load_extension()

from gee_kernels.batch_norm_lif.op import BatchNormLIF, batch_norm_lif  # noqa: E402
from gee_kernels.decode_weight.op import decode_weight  # noqa: E402
from gee_kernels.genetic_conv2d.op import genetic_conv2d  # noqa: E402
from gee_kernels.genetic_conv2d.plan import explain_plan  # noqa: E402
from gee_kernels.genetic_conv2d_lif.op import GeneticConv2dLIF, genetic_conv2d_lif  # noqa: E402
from gee_kernels.lif.op import lif  # noqa: E402
from gee_kernels.rdm.op import hamming_log_determinant, spike_overlaps, spike_rdm  # noqa: E402
from gee_kernels.spikes.op import pack_spikes, unpack_spikes  # noqa: E402
from gee_kernels.synapses.op import count_synapses  # noqa: E402

__all__ = [
    "BatchNormLIF",
    "GeneticConv2dLIF",
    "batch_norm_lif",
    "count_synapses",
    "decode_weight",
    "explain_plan",
    "genetic_conv2d",
    "genetic_conv2d_lif",
    "hamming_log_determinant",
    "lif",
    "pack_spikes",
    "spike_overlaps",
    "spike_rdm",
    "unpack_spikes",
]
