"""`decode_weight` against the equation, and its gradients."""

import pytest
import torch

from gee_kernels import decode_weight
from tests.tolerance import assert_close

SHAPES = [(5, 9, 7, 3), (1, 1, 1, 3), (33, 16, 100, 1), (4, 6, 3, 5), (0, 4, 2, 3)]  # C_in, C_out, g, K


def codes(shape, dtype=torch.float32):
    c_in, c_out, genes, k = shape
    generator = torch.Generator().manual_seed(0)
    sizes = ((c_in, genes, k, k), (genes, genes), (c_out, genes, k, k))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in sizes]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_value(shape, dtype, backend):
    if backend == "reference" and dtype in (torch.bfloat16, torch.float16):
        dtype = torch.float32  # the reference computes in the type it is given
    tensors = codes(shape, dtype)
    weight = decode_weight(*tensors, backend=backend)
    pre, interaction, post = (t.double() for t in tensors)
    expected = sum(
        torch.einsum("ihw,ohw->oihw", pre[:, u], post[:, v]) * interaction[u, v]
        for u in range(shape[2])
        for v in range(shape[2])
    )
    assert weight.is_contiguous()
    assert weight.dtype == dtype
    assert_close(weight, expected, dtype)


def test_orientation():
    """u, the first index of interaction, is the gene of pre."""
    pre, interaction, post = torch.zeros(1, 2, 1, 1), torch.zeros(2, 2), torch.zeros(1, 2, 1, 1)
    pre[0, 0], post[0, 1], interaction[0, 1], interaction[1, 0] = 3, 5, 7, 100
    assert decode_weight(pre, interaction, post).item() == 105


def test_gradcheck():
    leaves = [t.requires_grad_() for t in codes((3, 2, 4, 3), torch.float64)]
    assert torch.autograd.gradcheck(decode_weight, leaves)


def test_opcheck_compile_and_meta():
    tensors = codes((5, 9, 7, 3))
    torch.library.opcheck(torch.ops.gee_kernels.decode_weight.default, [t.requires_grad_() for t in tensors])
    compiled = torch.compile(decode_weight, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*tensors), decode_weight(*tensors), torch.float32)
    meta = decode_weight(*(t.to("meta") for t in tensors))
    assert meta.shape == (9, 5, 3, 3)


def test_any_strides_and_autocast():
    pre, interaction, post = codes((5, 9, 7, 3))
    expected = decode_weight(pre, interaction, post)
    strided = (
        pre.transpose(0, 1).contiguous().transpose(0, 1),
        interaction.t().contiguous().t(),
        post.flip(0).flip(0),
    )
    assert_close(decode_weight(*strided), expected, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decode_weight(pre, interaction, post).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("index", "replacement", "message"),
    [
        (0, torch.ones(5, 7, 9), r"pre must be \[C_in, g, K, K\], got \[5, 7, 9\]"),
        (0, torch.ones(5, 7, 3, 2), r"pre must be \[C_in, g, K, K\]"),
        (1, torch.ones(7, 8), r"interaction must be \[7, 7\], got \[7, 8\]"),
        (2, torch.ones(9, 7, 1, 1), r"post must be \[C_out, 7, 3, 3\]"),
        (2, torch.ones(9, 7, 3, 3).double(), "post must be torch.float32 on cpu"),
    ],
)
def test_errors_name_the_parameter(index, replacement, message):
    tensors = codes((5, 9, 7, 3))
    tensors[index] = replacement
    with pytest.raises(ValueError, match=message):
        decode_weight(*tensors)
